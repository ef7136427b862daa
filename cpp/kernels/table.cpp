// The ISA's table: the one symbol that leaves its namespace.
#include "kernels/kernel_table.h"

namespace gt {
namespace GT_ISA {

extern const GemmKernels<float> gemm_f32;
extern const GemmKernels<double> gemm_f64;
extern const ActivationKernels<float> activation_f32;
extern const ActivationKernels<double> activation_f64;
extern const ReduceKernels<float> reduce_f32;
extern const ReduceKernels<double> reduce_f64;
extern const MathKernels<float> math_f32;
extern const MathKernels<double> math_f64;
extern const RandomKernels random;
extern const PanelKernels<float> panel_f32;
extern const PanelKernels<double> panel_f64;
extern const RowKernels<float> rows_f32;
extern const RowKernels<double> rows_f64;
extern const PeakKernels<float> peak_f32;
extern const PeakKernels<double> peak_f64;
extern const LayerNormKernels<float> layer_norm_f32;
extern const LayerNormKernels<double> layer_norm_f64;
extern const CellKernels<float> lstm_f32, gru_f32, rnn_tanh_f32, rnn_relu_f32;
extern const CellKernels<double> lstm_f64, gru_f64, rnn_tanh_f64, rnn_relu_f64;

#define GT_TEXT(NAME) #NAME
#define GT_NAME(NAME) GT_TEXT(NAME)

extern const IsaKernels kernels;
const IsaKernels kernels{GT_NAME(GT_ISA),
                         {&gemm_f32,
                          &gemm_f32,
                          &activation_f32,
                          &reduce_f32,
                          &random,
                          &math_f32,
                          &panel_f32,
                          &rows_f32,
                          {&lstm_f32, &gru_f32, &rnn_tanh_f32, &rnn_relu_f32},
                          &peak_f32,
                          &layer_norm_f32},
                         {&gemm_f64,
                          &gemm_f64,
                          &activation_f64,
                          &reduce_f64,
                          &random,
                          &math_f64,
                          &panel_f64,
                          &rows_f64,
                          {&lstm_f64, &gru_f64, &rnn_tanh_f64, &rnn_relu_f64},
                          &peak_f64,
                          &layer_norm_f64}};

}  // namespace GT_ISA
}  // namespace gt
