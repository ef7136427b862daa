// The ISA's table: the one symbol that leaves its namespace.
#include "kernels/kernel_table.h"

namespace gt {
namespace GT_ISA {

GT_DECLARE_KERNELS(GemmKernels, gemm)
GT_DECLARE_KERNELS(ActivationKernels, activation)
GT_DECLARE_KERNELS(ReduceKernels, reduce)
GT_DECLARE_KERNELS(MathKernels, math)
GT_DECLARE_KERNELS(PanelKernels, panel)
GT_DECLARE_KERNELS(RowKernels, rows)
GT_DECLARE_KERNELS(PeakKernels, peak)
GT_DECLARE_KERNELS(LayerNormKernels, layer_norm)
GT_DECLARE_KERNELS(EnsembleKernels, ensemble)
GT_DECLARE_KERNELS(CellKernels, lstm)
GT_DECLARE_KERNELS(CellKernels, gru)
GT_DECLARE_KERNELS(CellKernels, rnn_tanh)
GT_DECLARE_KERNELS(CellKernels, rnn_relu)
extern const RandomKernels random;
extern const QrKernels qr;

#define GT_TEXT(NAME) #NAME
#define GT_NAME(NAME) GT_TEXT(NAME)
// Cells in the order of CellKind.
#define GT_TABLE(TYPE)                                                         \
    {.gemm = &gemm_##TYPE,                                                     \
     .gram = &gemm_##TYPE,                                                     \
     .activation = &activation_##TYPE,                                         \
     .reduce = &reduce_##TYPE,                                                 \
     .random = &random,                                                        \
     .qr = &qr,                                                                \
     .math = &math_##TYPE,                                                     \
     .panel = &panel_##TYPE,                                                   \
     .rows = &rows_##TYPE,                                                     \
     .cells = {&lstm_##TYPE, &gru_##TYPE, &rnn_tanh_##TYPE, &rnn_relu_##TYPE}, \
     .peak = &peak_##TYPE,                                                     \
     .layer_norm = &layer_norm_##TYPE,                                         \
     .ensemble = &ensemble_##TYPE}

extern const IsaKernels kernels;
const IsaKernels kernels{.name = GT_NAME(GT_ISA), .f32 = GT_TABLE(f32), .f64 = GT_TABLE(f64)};

}  // namespace GT_ISA
}  // namespace gt
