// What a watched model's tensors measure: sums of squares of dense arrays that belong to others, on one thread.
#pragma once

#include <cstddef>

namespace gt {

// Of all entries, squared in T: meaningful where it is far from the ends of T's range.
template <class T>
double sum_of_squares(std::size_t count, const T* x);

// x (outer, rows, columns): of all entries less their mean over the rows.
template <class T>
double squares_apart(std::size_t outer, std::size_t rows, std::size_t columns, const T* x);

}  // namespace gt
