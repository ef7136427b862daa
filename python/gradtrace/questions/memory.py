"""Question 4: what keeps a gradient over time."""

from __future__ import annotations

import numpy as np

from gradtrace.analysis.plain_float32 import framework_dh
from gradtrace.analysis.statistics import middle, over_last
from gradtrace.analysis.thresholds import FLOAT32
from gradtrace.networks import LSTM, RNN
from gradtrace.questions import figures as draw
from gradtrace.questions.answer import Answer
from gradtrace.show.looks import series

__all__ = ["how_do_lstms_solve_it"]


def how_do_lstms_solve_it(seed: int) -> Answer:
    """LSTMs that differ in their forget bias, a plain RNN as the control; a framework's zeros beside."""
    steps, biases = 500, (None, 1.0, 6.0)
    x = np.random.default_rng(seed + 1).standard_normal((steps, 8, 8)).astype(np.float32)
    cotangent = np.random.default_rng(seed + 2).standard_normal((8, 128)).astype(np.float32)
    rnn = RNN.random(8, 128, recurrent_init="torch_default", seed=seed)
    dh, direct = {"plain RNN": rnn.trace(x, cotangent=cotangent).log2_dh[0]}, {}
    for bias in biases:
        lstm = LSTM.random(8, 128, recurrent_init="torch_default", forget_bias=bias, seed=seed)
        trace = lstm.trace(x, cotangent=cotangent)
        name = "PyTorch's own" if bias is None else f"forget bias {bias:g}"
        dh[name] = trace.log2_dh[0]
        direct[name] = float(middle(trace.log2_dc[0, 0] - trace.log2_dc_direct[0, 0]))
        if bias is None:
            who, zeros = framework_dh(lstm, x, cotangent)
    lost = int((np.abs(zeros).max(axis=(1, 2)) == 0).sum())
    curves = {name: middle(norms) for name, norms in dh.items()}
    change = {name: float(over_last(norms)[0]) for name, norms in dh.items()}
    own, line = change["PyTorch's own"], direct["PyTorch's own"]
    text = (
        f"By a forget gate that is open, not by their structure alone: over {steps} steps a plain tanh RNN with "
        f"PyTorch's own weights keeps 2^{change['plain RNN']:.0f} of the gradient and an LSTM with PyTorch's own "
        f"2^{own:.0f} ({who} reads exactly 0 at {lost} of its {steps + 1} states), but the same LSTM with a forget "
        f"bias of 1 keeps 2^{change['forget bias 1']:.0f}, and with one of 6 2^{change['forget bias 6']:.1f}. And the "
        f"cell line is not all: in PyTorch's own the gradient of the first cell is 2^{line:.0f} times what came along "
        "it."
    )
    return Answer(
        4,
        "How do LSTMs solve the vanishing gradient problem?",
        "With a unique additive gradient structure that includes direct access to the forget gate's activations.",
        "half right",
        text,
        {f"log2_change_{name.replace(' ', '_')}": value for name, value in change.items()}
        | {f"log2_total_over_direct_{name.replace(' ', '_')}": value for name, value in direct.items()}
        | {"states_read_as_zero": float(lost)},
        "Norm of dL/dh against the lag, bits; an RNN and three forget biases. Below "
        f"2^{FLOAT32.zero:.0f} float32 reads 0.",
        lambda ax: draw.against_lag(ax, curves),
        series(curves),
    )
