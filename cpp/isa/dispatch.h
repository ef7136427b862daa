// The compiled ISAs, best first, and the one in use.
#pragma once

#include <string>
#include <vector>

#include "kernels/kernel_table.h"

namespace gt {

std::vector<std::string> compiled_isas();   // best first
std::vector<std::string> supported_isas();  // of these, what this CPU runs

// The active kernels at the precision in force. An op loads this once and uses that table to its end.
const IsaKernels& active_isa();

// Of float32 products, for the whole process; `highest` until it is set.
Precision precision();
void set_precision(Precision precision);

// Makes `name` active; false, and nothing changed, when it is not in supported_isas().
bool use_isa(const std::string& name);

}  // namespace gt
