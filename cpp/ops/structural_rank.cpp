// How many singular values of a product are not zero whatever the numbers are that stand where its factors are not
// zero: its rank with random numbers there, in the field of 2^61 - 1 elements, where nothing is rounded. A zero in
// place of one more is as likely as 10^-18 times the chain's entries.
//
// Factors without any zero link all units before them with all behind: the product's rank is the least of those of the
// parts between them, and mostly there are none.
#include <algorithm>
#include <cstdint>

#include "ops/spectrum.h"

namespace gt {
namespace {

using Number = std::uint64_t;
__extension__ using Wide = unsigned __int128;
constexpr Number kPrime = (Number{1} << 61) - 1;

Number reduced(Wide x) {
    const Number sum = static_cast<Number>(x & kPrime) + static_cast<Number>(x >> 61);
    return sum >= kPrime ? sum - kPrime : sum;
}
Number product(Number a, Number b) { return reduced(static_cast<Wide>(a) * b); }
Number inverse(Number a) {  // a^(p - 2)
    Number result = 1;
    for (Number power = kPrime - 2; power != 0; power >>= 1, a = product(a, a))
        if (power & 1) result = product(result, a);
    return result;
}

bool has_no_zero(const Matrix& a) {
    for (std::size_t i = 0; i < a.rows; ++i)
        if (std::find(a.row(i), a.row(i) + a.columns, 0.0) != a.row(i) + a.columns) return false;
    return true;
}

bool leads_straight_on(const Matrix& a) {
    if (a.rows != a.columns) return false;
    for (std::size_t i = 0; i < a.rows; ++i)
        if (a.row(i)[i] == 0) return false;
    return true;
}

// Columns that are independent, of the product as far as it has come.
class Basis {
  public:
    explicit Basis(std::size_t n) {
        for (std::size_t j = 0; j < n; ++j) {
            columns_.emplace_back(n, Number{0});
            columns_.back()[j] = 1;
        }
    }

    std::size_t rank() const { return columns_.size(); }

    void multiply_by(const Matrix& a) {
        std::vector<std::vector<Number>> image(columns_.size(), std::vector<Number>(a.rows, 0));
        for (std::size_t i = 0; i < a.rows; ++i)
            for (std::size_t j = 0; j < a.columns; ++j) {
                if (a.row(i)[j] == 0) continue;
                const Number entry = draw();
                for (std::size_t c = 0; c < columns_.size(); ++c)
                    image[c][i] = reduced(static_cast<Wide>(entry) * columns_[c][j] + image[c][i]);
            }
        columns_.clear();
        std::vector<std::size_t> pivots;
        for (std::vector<Number>& column : image) add(std::move(column), &pivots);
    }

  private:
    void add(std::vector<Number> column, std::vector<std::size_t>* pivots) {
        for (std::size_t c = 0; c < columns_.size(); ++c) {
            const Number factor = column[(*pivots)[c]];  // columns have 1 at their pivots
            if (factor == 0) continue;
            for (std::size_t i = 0; i < column.size(); ++i)
                column[i] = reduced(static_cast<Wide>(kPrime - factor) * columns_[c][i] + column[i]);
        }
        const auto first = std::find_if(column.begin(), column.end(), [](Number x) { return x != 0; });
        if (first == column.end()) return;
        const Number factor = inverse(*first);
        pivots->push_back(static_cast<std::size_t>(first - column.begin()));
        for (Number& x : column) x = product(x, factor);
        columns_.push_back(std::move(column));
    }

    Number draw() {  // SplitMix64
        Number z = state_ += 0x9e3779b97f4a7c15;
        z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9;
        z = (z ^ (z >> 27)) * 0x94d049bb133111eb;
        return (z ^ (z >> 31)) % (kPrime - 1) + 1;
    }

    std::vector<std::vector<Number>> columns_;
    Number state_ = 0;
};

}  // namespace

std::size_t structural_rank(const std::vector<Matrix>& chain) {
    std::size_t rank = chain.front().columns;
    std::vector<Basis> open;  // one or none
    for (const Matrix& a : chain) {
        rank = std::min(rank, a.rows);
        if (has_no_zero(a)) {
            open.clear();
        } else if (!open.empty() || !leads_straight_on(a)) {
            if (open.empty()) open.emplace_back(a.columns);
            open.back().multiply_by(a);
            rank = std::min(rank, open.back().rank());
        }
    }
    return rank;
}

}  // namespace gt
