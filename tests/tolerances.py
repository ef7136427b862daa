"""Every tolerance of the tests, with its reason; known answers bring their own.

`tolerance(kernel, quantity, dtype)` reads the one table. Where nobody knows a network's condition beforehand,
`roundoff.py` measures what it does to rounding errors; its safety factor stands in the table too.
"""

import numpy as np

FLOAT64, FLOAT32 = "float64", "float32"

# (kernel, quantity): (float64, float32, reason)
TABLE = {
    # ULP of normal results over the whole line; the largest measured on any ISA stands above each function, from more
    # points than a test can take.
    ("ulp", "exp"): (1.0, 1.0, "one rounding of 1 + rest"),
    ("ulp", "expm1"): (2.0, 2.0, "two roundings around 2^k - 1"),
    ("ulp", "log"): (1.0, 1.0, "written around the exact f"),
    ("ulp", "log1p"): (1.0, 1.0, "as log; what 1 + x lost is put back"),
    ("ulp", "log2"): (1.1, 1.1, "leading product exact in two parts"),
    ("ulp", "tanh"): (2.5, 2.5, "an exponential, a quotient, a product"),
    ("ulp", "sigmoid"): (2.0, 2.0, "an exponential, a quotient, a product"),
    ("ulp", "erf"): (2.0, 2.0, "1 - erfc beyond 0.85"),
    ("ulp", "erfc"): (6.5, 6.5, "a rational of two rounded polynomials times a gaussian"),
    ("ulp", "phi.linear"): (0.0, 0.0, "exact"),
    ("ulp", "phi.sigmoid"): (2.0, 2.0, "sigmoid"),
    ("ulp", "phi.tanh"): (2.5, 2.5, "tanh"),
    ("ulp", "phi.relu"): (0.0, 0.0, "exact"),
    ("ulp", "phi.leaky_relu"): (0.5, 1.0, "one product; the slope 0.01 rounds to float32 first"),
    ("ulp", "phi.elu"): (1.0, 1.0, "expm1 of negative numbers"),
    ("ulp", "phi.leaky_relu:"): (0.5, 1.5, "as above; near a power of two the slope's rounding is a whole unit"),
    ("ulp", "phi.elu:"): (2.0, 2.0, "expm1 and a product with a rounded constant"),
    ("ulp", "phi.selu"): (2.0, 2.0, "expm1 and a product with a rounded constant"),
    ("ulp", "phi.softplus"): (2.5, 2.5, "a polynomial of a rounded exponential"),
    ("ulp", "phi.gelu"): (5.5, 5.5, "as erfc"),
    ("ulp", "phi.silu"): (3.0, 3.0, "sigmoid and two products"),
    ("ulp", "phi.erf"): (2.0, 2.0, "erf"),
    ("ulp", "phi.hard_tanh"): (0.0, 0.0, "exact"),
    ("ulp", "dphi.linear"): (0.0, 0.0, "exact"),
    ("ulp", "dphi.sigmoid"): (3.0, 3.0, "w (1 - w)"),
    ("ulp", "dphi.tanh"): (3.5, 3.5, "4 w (1 - w)"),
    ("ulp", "dphi.relu"): (0.0, 0.0, "exact"),
    ("ulp", "dphi.leaky_relu"): (0.0, 0.5, "the slope 0.01 rounds to float32"),
    ("ulp", "dphi.elu"): (1.0, 1.0, "exp"),
    ("ulp", "dphi.leaky_relu:"): (0.0, 0.5, "the slope rounds to float32"),
    ("ulp", "dphi.elu:"): (1.5, 1.5, "exp and a product with a rounded constant"),
    ("ulp", "dphi.selu"): (1.5, 1.5, "exp and a product with a rounded constant"),
    ("ulp", "dphi.softplus"): (2.0, 2.0, "sigmoid"),
    ("ulp", "dphi.gelu"): (6.5, 6.5, "as erfc; against 1/2 near the sign change"),
    ("ulp", "dphi.silu"): (4.0, 4.0, "sigmoid times 1 + z sigmoid(-z); against 1/2 near the sign change"),
    ("ulp", "dphi.erf"): (2.5, 2.5, "a gaussian and a product"),
    ("ulp", "dphi.hard_tanh"): (0.0, 0.0, "exact"),
    ("ulp", "subnormal"): (2.5, 2.5, "of the smallest subnormal; products take the power of two last"),
    ("matrix product", "of the sum of magnitudes"): (2.5e-16, 1.3e-7, "2 u; errors of k terms grow as sqrt(k)"),
    ("precision high", "of the sum of magnitudes"): (None, 2.0**-17, "three products of parts of 8 bits"),
    ("precision high", "log2"): (2e-4, None, "bits, float32 traces of a few layers; 2^-17 a product"),
    ("precision high", "cut off"): (1e-4, None, "relative; two parts of 8 bits that are cut off, not rounded: 2^-14"),
    ("exported", "outputs"): (1e-5, 1e-5, "of the largest output; files and their sources are float32"),
    ("precision highest", "cut off"): (1e-6, None, "relative; three parts hold a float32 whole"),
    ("precision highest", "log2"): (1e-5, None, "bits, float32 traces of a few layers"),
    ("oracle", "derivative"): (1e-12, None, "relative; the complex step has no cancellation, a few roundings remain"),
    ("oracle", "activation"): (1e-13, None, "relative to mpmath; erfc is good to 1e-14, exp(-z^2/2) to z^2 u"),
    ("oracle", "gradient"): (1e-12, None, "relative to the largest entry; complex step of a stack of a few layers"),
    ("oracle", "log2"): (1e-10, None, "bits; theory.md H: 8e-14 measured at 600 layers, bound 1.7e-12 for 8 units"),
    ("oracle", "largest derivative"): (1e-9, None, "relative; a grid of step 1e-4 misses a maximum by its square"),
    ("ordered", "log2"): (1e-10, 1e-3, "bits; theory.md H: bounds of 1.7e-12 and 9e-4 at 600 layers, chi_1 < 1"),
    ("deep homogeneous", "log2"): (1e-10, 5e-3, "bits; 3000 layers of the above, errors add as a random walk at most"),
    ("faded", "log2"): (1e-9, 5e-3, "bits; a z of -1,000 is off by 3e-5 in float32, e^z by as much; four layers"),
    ("faded", "any network"): (1e-7, 0.2, "bits; as above, and sums of random terms cancel; a false zero is infinite"),
    ("gains", "identity"): (1e-12, 1e-12, "bits; sums of float64 log2 values up to 2048, one ulp there is 2.3e-13"),
    ("gains", "recomputed"): (1e-12, 2e-5, "bits; n u / ln 2 with n = 40 inputs and a cancellation of 5"),
    ("scaled", "log2"): (1e-12, 1e-5, "bits; the norm of a kept row, whose mantissas are exact; the sum rounds"),
    ("gradient", "entries"): (1e-12, 1e-5, "relative to the largest entry; shallow stacks"),
    ("rounding", "safety"): (16, 16, "a sum of n <= 70 terms errs by sqrt(n) of the model's one rounding"),
    ("kink", "deviations"): (16, 16, "as above, of one z; whoever is further on the other side is wrong"),
    ("kink", "share moved"): (1e-5, 1e-5, "and one entry; u sum |w a| over the spread of z, some 20 u in float32"),
    ("rounding", "floor"): (1e-13, 2e-6, "bits; 16 roundings of float32; of float64 450, a log2 of 500 has ulp 6e-14"),
    ("rounding", "ulps"): (4, 4, "of the largest figure: a gain is the difference of two such"),
    ("statistics", "relative"): (1e-11, 2e-5, "of |mean| + std; the entries carry the forward rounding"),
    ("statistics", "exact input"): (1e-9, 1e-6, "relative; the entries are exact, so only the sums can err"),
    ("statistics", "share"): (0.0, 0.0, "a count; no entry of these cases lies within rounding of a threshold"),
    ("losses", "relative"): (1e-12, 1e-5, "a logarithm of a sum of n_L exponentials of rounded logits"),
    ("chunks", "log2"): (1e-12, 2e-6, "bits; other blocks, other order of the same sums"),
    ("precision", "float32 against float64"): (None, 1e-3, "bits at depth 600; the acceptance limit of issue 2"),
    ("orthogonal", "defect"): (1e-13, 1e-6, "largest entry of W W^T - 1; accumulated reflections, one rounding"),
    ("quarter circle", "mean singular value"): (3e-3, 3e-3, "relative; O(1/n) of the limit law at n = 1000"),
    ("mean field", "slope"): (0.02, 0.02, "relative; issue 2: width 64 at 5,000 layers"),
    ("recurrent", "log2"): (1e-11, 1e-4, "bits; ten steps of thirty units, n u / ln 2 each, cancellation of 5"),
    ("recurrent", "entries"): (1e-12, 1e-5, "relative to the largest entry; some ten steps"),
    ("recurrent", "statistics"): (1e-12, 2e-6, "of values up to 1; the gates' own rounding, averaged"),
    ("recurrent", "parts"): (1e-12, 1e-5, "relative to the largest entry: direct + gated is the whole, to rounding"),
    ("recurrent long", "log2"): (1e-9, 1e-3, "bits; the limits of the issue: T = 300, and T = 900 in float64"),
    ("Lyapunov", "largest exponent"): (0.08, 0.08, "relative; the known answer's own, N = 300, 400 steps"),
    ("Lyapunov", "exponent of a rank"): (0.05, 0.05, "nats; the known answer's own, N = 150"),
    ("random shapes", "bits"): (1e-9, 0.02, "the issue's limit in float32; what cancels more, 20 times portable's"),
    ("torch", "log2"): (1e-10, None, "bits; float64 autograd of a few layers, far from underflow"),
    ("torch", "loss"): (1e-12, 1e-6, "relative; both average the same float sums"),
}  # fmt: skip


def tolerance(kernel, quantity, dtype=FLOAT64):
    return TABLE[kernel, quantity][[FLOAT64, FLOAT32].index(dtype)]


SAMPLES = ("log2_delta", "log2_delta_max", "log2_activation", "log2_preactivation", "log2_grad_input", "log2_cotangent",
           "activation_gain", "weight_gain", "log2_grad_weight_sample")  # fmt: skip
LAYERS = ("log2_grad_weight", "log2_grad_bias", "log2_weight")
FIGURES = SAMPLES + LAYERS


# Figures of a recurrent trace by cell, with their axes: K directions, S = T + 1 states, T steps, B samples.
EVERY_CELL = {"log2_dh": "KSB", "log2_dx": "TB", "log2_grad_weight_ih": "K", "log2_grad_weight_hh": "K",
              "log2_grad_weight_ih_step": "KT", "log2_grad_weight_hh_step": "KT"}  # fmt: skip
GATED = {"log2_retention": "KSB", "forget_half_life": "K", "forget_half_life_unit": "KH",
         "gate_mean": "KTG", "gate_saturated": "KTG"}  # fmt: skip
ONE_BIAS = {"log2_grad_bias": "K", "log2_grad_bias_step": "KT"}
TWO_BIASES = {f"log2_grad_bias_{name}": axes for name, axes in
              {"ih": "K", "hh": "K", "ih_step": "KT", "hh_step": "KT"}.items()}  # fmt: skip
RECURRENT = {
    "lstm": EVERY_CELL | GATED | ONE_BIAS | dict.fromkeys(("log2_dc", "log2_dc_direct", "log2_dc_gated"), "KSB"),
    "gru": EVERY_CELL | GATED | TWO_BIASES | dict.fromkeys(("log2_dh_direct", "log2_dh_gated"), "KSB"),
    "rnn": EVERY_CELL | ONE_BIAS | dict.fromkeys(("log2_dz", "activation_gain", "weight_gain"), "KTB"),
}
STATISTICS = ("gate_mean", "gate_saturated")


def assert_recurrent(got, exact, dtype, limit=None, names=None):
    """Every figure of a recurrent trace is the oracle's; `limit` of those in bits, or of each one as {name: number}."""
    for name in names or RECURRENT[got.cell]:
        at = tolerance("recurrent", "log2", dtype) if limit is None else limit
        if isinstance(at, dict):
            at = at[name]
        elif name in STATISTICS:
            at = tolerance("recurrent", "statistics", dtype)
        elif name.startswith("forget"):  # steps, relative
            at = tolerance("recurrent", "entries", dtype) * abs(getattr(exact, name)) + 1e-300
        assert_close(getattr(got, name), getattr(exact, name), at, name)


def assert_close(got, expected, limit, what=""):
    """|got - expected| <= limit, where infinities and NaN must be the same."""
    got, expected = np.asarray(got), np.asarray(expected)
    assert got.shape == expected.shape, f"{what}: shape {got.shape}, expected {expected.shape}"
    with np.errstate(invalid="ignore", divide="ignore"):
        excess = np.where((got == expected) | (np.isnan(got) & np.isnan(expected)), 0.0, abs(got - expected) / limit)
    worst = np.unravel_index(np.argmax(excess), excess.shape) if excess.size else ()
    assert np.all(excess <= 1), (
        f"{what}{[int(i) for i in worst]}: got {got[worst]}, expected {expected[worst]}, "
        f"{np.count_nonzero(~(excess <= 1))} of {got.size} beyond the limit {np.broadcast_to(limit, got.shape)[worst]}"
    )


def assert_figures(got, expected, limit, names=FIGURES):
    """Every named figure of two traces; `limit` is one number or {name: array}."""
    for name in names:
        at = limit[name] if isinstance(limit, dict) else limit
        assert_close(getattr(got, name), getattr(expected, name), at, name)
