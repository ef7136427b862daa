// The compiled ISAs, best first, and the one in use.
#pragma once

#include <string>
#include <vector>

#include "kernels/kernel_table.h"

namespace gt {

std::vector<std::string> compiled_isas();   // best first
std::vector<std::string> supported_isas();  // of these, what this CPU runs

// Of those that are no instruction set of any CPU, what runs here: the matrix unit's sources over its instructions in
// plain C++.
std::vector<std::string> isas_for_tests();

// The active kernels at the precision in force. An op loads this once and uses that table to its end.
const IsaKernels& active_isa();

// Of float32 products, for the whole process; `highest` until it is set.
Precision precision();
void set_precision(Precision precision);

// Makes `name` active; false, and nothing changed, when it is in neither supported_isas() nor isas_for_tests().
bool use_isa(const std::string& name);

}  // namespace gt
