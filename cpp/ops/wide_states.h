// States and differences of states of one direction as numbers that no format ends, for the rows of the backward pass
// whose gradient hangs on them. Run again from the kept preactivations of a slot when it is asked for first.
#pragma once

#include <map>
#include <vector>

#include "core/wide.h"
#include "ops/recurrent_direction.h"

namespace gt {

// What a backward step needs of a row beside its preactivations in T; arrays (hidden,), null where a cell has none.
struct WideFactors {
    const Wide* candidate = nullptr;   // an LSTM's, before its tanh
    const Wide* c_previous = nullptr;  // LSTM
    const Wide* c = nullptr;           // LSTM
    const Wide* recurrent = nullptr;   // GRU: the block that the reset gate multiplies
    const Wide* difference = nullptr;  // GRU: h_previous - n
};

struct HistoryLost {};

template <class T>
class WideStates {
  public:
    WideStates(const DirectionContext<T>& context, const DirectionState<T>& state);
    // The state is of steps from `first` on. What a GRU's differences go back to is then not there: HistoryLost where
    // one is asked for. An LSTM's c goes on from that of the window's first step.
    void start_window(std::size_t first);

    // Valid until the next call. Preactivations of steps up to `step` are read when a slot is asked for first; later
    // calls for it come from earlier steps.
    WideFactors factors(std::size_t step, std::size_t slot);
    // An LSTM's c (hidden,) by state, steps as above.
    const Wide* c(std::size_t state, std::size_t slot);

  private:
    // Of a slot, from the window's first step on: c of an LSTM by state; of a GRU h - n by step.
    struct History {
        std::vector<Wide> rows;
        std::size_t steps = 0;
    };

    const Wide* record(std::size_t step, std::size_t slot) const;
    const T* z(std::size_t step, std::size_t slot) const {
        return state_.z + (context_.sequence.first_row(step) + slot) * context_.row_size();
    }
    Wide initial(const T* rows, double exponent, std::size_t slot, std::size_t u) const;
    Wide carried(std::size_t slot, std::size_t u) const;
    const History& history(std::size_t step, std::size_t slot);
    void run_lstm(std::size_t steps, std::size_t slot, History* out) const;
    void run_gru(std::size_t steps, std::size_t slot, History* out) const;

    const DirectionContext<T>& context_;
    const DirectionState<T>& state_;
    std::size_t n_, first_ = 0;
    std::map<std::size_t, History> histories_;
    std::vector<Wide> from_z_;
};

}  // namespace gt
