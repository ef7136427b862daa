#include "ops/measures.h"

#include "isa/dispatch.h"

namespace gt {

template <class T>
double sum_of_squares(std::size_t count, const T* x) {
    return active_isa().get<T>().reduce->flat_squares(count, x);
}

template <class T>
double squares_apart(std::size_t outer, std::size_t rows, std::size_t columns, const T* x) {
    const auto& kernels = *active_isa().get<T>().reduce;
    double sum = 0;
    for (std::size_t i = 0; i < outer; ++i)
        sum += kernels.apart_squares(rows, columns, columns, x + i * rows * columns);
    return sum;
}

template double sum_of_squares(std::size_t, const float*);
template double sum_of_squares(std::size_t, const double*);
template double squares_apart(std::size_t, std::size_t, std::size_t, const float*);
template double squares_apart(std::size_t, std::size_t, std::size_t, const double*);

}  // namespace gt
