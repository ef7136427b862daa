// The floating-point mode in which ops run.
#pragma once

namespace gt {

// How this thread treats subnormals while this stands; the mode before comes back with its end. Ops flush: row scaling
// keeps every figure that counts far from them, and a vanished trace then costs what a healthy one does. What the
// caller brought (inputs, weights, cotangents) is read with subnormals kept, and rescaled.
enum class Subnormals { flush, keep };

class SubnormalMode {
  public:
    explicit SubnormalMode(Subnormals mode);
    ~SubnormalMode();
    SubnormalMode(const SubnormalMode&) = delete;
    SubnormalMode& operator=(const SubnormalMode&) = delete;

  private:
    unsigned long long saved_;
};

}  // namespace gt
