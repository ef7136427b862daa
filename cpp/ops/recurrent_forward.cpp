// Forward pass of one direction: the input projections of all steps as one product, then step by step.
#include <algorithm>

#include "ops/recurrent_direction.h"

namespace gt {

std::size_t steps_per_chunk(const PackedSequence& sequence) {
    return std::max<std::size_t>(1, kChunkRows / std::max<std::size_t>(1, sequence.batch()));
}

template <class T>
const T* input_rows(const DirectionContext<T>& context, const T* rows, std::size_t width, std::size_t first,
                    std::size_t end, T* scratch) {
    const PackedSequence& sequence = context.sequence;
    if (!context.reverse) return rows + sequence.first_row(first) * width;
    T* to = scratch;
    for (std::size_t step = first; step < end; ++step)
        for (std::size_t slot = 0; slot < sequence.active(step); ++slot, to += width) {
            const T* from = rows + sequence.mirrored(step, slot) * width;
            std::copy(from, from + width, to);
        }
    return scratch;
}

namespace {

template <class T>
void multiply_rows(std::size_t rows, std::size_t n, T* x, std::size_t ld, double exponent) {
    if (exponent == 0) return;
    for (std::size_t r = 0; r < rows; ++r)
        for (std::size_t i = 0; i < n; ++i)
            x[r * ld + i] = static_cast<T>(scale_by(static_cast<double>(x[r * ld + i]), exponent));
}

// z = W_ih x for all rows; blocks that W_ih does not feed start from zero.
template <class T>
void project(const DirectionContext<T>& context, const PackedMatrix<T>& ih, const T* input,
             const DirectionState<T>& state) {
    const PackedSequence& sequence = context.sequence;
    const std::size_t row_size = context.row_size(), first_column = context.cell().ih_first * context.hidden;
    const std::size_t per_chunk = steps_per_chunk(sequence), chunks = (sequence.steps() + per_chunk - 1) / per_chunk;
    const Loop loop{chunks, 2.0 * static_cast<double>(sequence.rows()) * static_cast<double>(ih.inputs * ih.outputs)};
    const std::size_t scratch_size =
        context.reverse ? checked_multiply(per_chunk * sequence.batch(), ih.inputs) : std::size_t{0};
    AlignedBuffer<T> scratch(checked_multiply(loop.workers(), scratch_size));
    parallel_for(loop, [&](std::size_t chunk, std::size_t worker) {
        if (context.interrupt.requested(worker)) return;
        const std::size_t first = chunk * per_chunk, end = std::min(first + per_chunk, sequence.steps());
        const std::size_t row = sequence.first_row(first), rows = sequence.first_row(end) - row;
        const T* x = input_rows(context, input, ih.inputs, first, end, scratch.data() + worker * scratch_size);
        T* z = state.z + row * row_size;
        context.kernels().panel->multiply(rows, ih.outputs, ih.inputs, x, ih.inputs, ih.forward.data(),
                                          z + first_column, row_size, false);
        multiply_rows(rows, ih.outputs, z + first_column, row_size, ih.exponent);
        if (ih.outputs < row_size)
            for (std::size_t r = 0; r < rows; ++r)
                std::fill(z + r * row_size + ih.outputs, z + (r + 1) * row_size, T(0));
    });
}

// Slots [first, end) through all steps.
template <class T>
void run_slots(const DirectionContext<T>& context, const CellWeights<T>& weights, const DirectionState<T>& state,
               std::size_t first, std::size_t end, T* scratch, std::size_t worker) {
    const PackedSequence& sequence = context.sequence;
    const CellShape& cell = context.cell();
    const std::size_t n = context.hidden, row_size = context.row_size();
    const PackedMatrix<T>& hh = weights.hh;
    for (std::size_t step = 0; step < sequence.steps() && sequence.active(step) > first; ++step) {
        if (context.interrupt.requested(worker)) return;
        const std::size_t rows = std::min(end, sequence.active(step)) - first;
        const std::size_t row = sequence.first_row(step) + first, before = context.previous_state(step, first),
                          now = context.state(step, first);
        T *z = state.z + row * row_size, *to = z + cell.hh_first * n;
        if (hh.exponent == 0) {
            context.kernels().panel->multiply(rows, hh.outputs, n, state.h + before * n, n, hh.forward.data(), to,
                                              row_size, true);
        } else {
            context.kernels().panel->multiply(rows, hh.outputs, n, state.h + before * n, n, hh.forward.data(), scratch,
                                              hh.outputs, false);
            multiply_rows(rows, hh.outputs, scratch, hh.outputs, hh.exponent);
            for (std::size_t r = 0; r < rows; ++r)
                for (std::size_t i = 0; i < hh.outputs; ++i) to[r * row_size + i] += scratch[r * hh.outputs + i];
        }
        CellForward<T> s{};
        s.rows = rows;
        s.hidden = n;
        s.z = z;
        s.bias = weights.bias.data();
        s.h_previous = state.h + before * n;
        s.h = state.h + now * n;
        if (cell.has_cell_state) {
            s.c_previous = state.c + before * n;
            s.c = state.c + now * n;
        }
        if (cell.gates) {
            s.gate_sums = state.gate_sums + row * 2 * cell.gates;
            s.carry_log2 = state.carry_log2 + row;
            s.add_carry_log2_units = state.carry_log2_units + first * n;
        }
        context.cell_kernels().forward(s);
    }
}

}  // namespace

template <class T>
void direction_forward(const DirectionContext<T>& context, const CellWeights<T>& weights, const T* input,
                       const DirectionState<T>& state) {
    project(context, weights.ih, input, state);
    const std::size_t batch = context.sequence.batch();
    if (context.cell().gates) std::fill(state.carry_log2_units, state.carry_log2_units + batch * context.hidden, 0.0);
    const Loop slots{batch, 2.0 * static_cast<double>(context.sequence.rows()) *
                                static_cast<double>(weights.hh.inputs * weights.hh.outputs)};
    const std::size_t workers = slots.workers(), share = (batch + workers - 1) / workers;
    const std::size_t scratch_size = weights.hh.exponent == 0 ? 0 : share * weights.hh.outputs;
    AlignedBuffer<T> scratch(workers * scratch_size);
    parallel_for(slots.of((batch + share - 1) / share), [&](std::size_t i, std::size_t worker) {
        run_slots(context, weights, state, i * share, std::min(batch, (i + 1) * share),
                  scratch.data() + worker * scratch_size, worker);
    });
}

template const float* input_rows<float>(const DirectionContext<float>&, const float*, std::size_t, std::size_t,
                                        std::size_t, float*);
template const double* input_rows<double>(const DirectionContext<double>&, const double*, std::size_t, std::size_t,
                                          std::size_t, double*);
template void direction_forward<float>(const DirectionContext<float>&, const CellWeights<float>&, const float*,
                                       const DirectionState<float>&);
template void direction_forward<double>(const DirectionContext<double>&, const CellWeights<double>&, const double*,
                                        const DirectionState<double>&);

}  // namespace gt
