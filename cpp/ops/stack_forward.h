// The op behind Stack.forward.
#pragma once

#include "ops/stack_source.h"

namespace gt {

// y (batch, n_L) in plain values; of a drawn stack some layers at a time. Throws Interrupted, std::bad_alloc.
template <class T>
void stack_forward(const IsaKernels& isa, const StackSource<T>& source, const T* x, std::size_t batch, T* y,
                   Interrupt& interrupt);

}  // namespace gt
