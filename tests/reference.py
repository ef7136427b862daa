"""The oracle: traces of stacks as the formulas say, one sample a row, in float64 or, slowly, in mpmath numbers.

    z_l = a_{l-1} W_l^T + b_l       a_l = phi_l(z_l)
    delta_l = dL/da_l * phi_l'(z_l)      dL/da_{l-1} = delta_l W_l

Float64 rows carry a power of two, so that they never leave the float range; mpmath numbers need none. `forward` and the
losses also accept complex128, for the complex step. Layers count from 0; `test_reference.py` proves all of it.
"""

from collections.abc import Callable
from functools import partial
from types import SimpleNamespace
from typing import NamedTuple

import mpmath as mp
import numpy as np
import scipy.special
from remembered import remembered
from tolerances import tolerance

mp.mp.dps = 60

NUMPY = SimpleNamespace(
    exp=np.exp, expm1=np.expm1, log1p=np.log1p, tanh=np.tanh, cosh=np.cosh, sqrt=np.sqrt,
    erf=scipy.special.erf, erfc=scipy.special.erfc, pi=np.pi,
)  # fmt: skip
MPMATH = SimpleNamespace(
    pi=mp.pi,
    **{name: np.frompyfunc(getattr(mp, name), 1, 1) for name in vars(NUMPY) if name != "pi"},
)


def is_mpmath(x) -> bool:
    return np.asarray(x).dtype == object


def to_mpmath(x):
    """The same numbers, exactly, with 60 digits and no end to their exponent."""
    return None if x is None else np.vectorize(mp.mpf, otypes=[object])(np.asarray(x, np.float64))


# --- Activations: value, derivative, largest derivative -------------------------------------------------------------

SELU_ALPHA, SELU_LAMBDA = 1.6732632423543772, 1.0507009873554805


def positive(z):
    return np.asarray(z.real > 0, bool)


def inside(z):
    return np.asarray((z.real > -1) & (z.real < 1), bool)


def sigmoid(f, z):
    return 1 / (1 + f.exp(-z))


def normal_cdf(f, z):
    return f.erfc(-z / f.sqrt(0 * z + 2)) / 2


def normal_pdf(f, z):
    return f.exp(-z * z / 2) / f.sqrt(0 * z + 2 * f.pi)


class Activation(NamedTuple):
    value: Callable
    derivative: Callable
    largest: float  # sup |phi'|
    side: Callable | None = None  # which side of its kinks z is on, where phi(z) shows it
    mirror: Callable | None = None  # z brought to the other side of the nearest kink
    dies: bool = False  # phi' is 0 off that side
    homogeneous: bool = False  # phi(k z) = k phi(z) for k > 0


ACTIVATIONS = {
    "linear": Activation(lambda f, z: z, lambda f, z: np.ones_like(z), 1.0, homogeneous=True),
    "relu": Activation(
        lambda f, z: np.where(positive(z), z, 0 * z),
        lambda f, z: np.where(positive(z), 1, 0 * z),
        1.0, positive, np.negative, dies=True, homogeneous=True),
    "hard_tanh": Activation(
        lambda f, z: np.where(inside(z), z, np.where(positive(z), 1, -1)),
        lambda f, z: np.where(inside(z), 1, 0 * z),
        1.0, inside, lambda z: np.where(positive(z), 2 - z, -2 - z), dies=True),
    "sigmoid": Activation(sigmoid, lambda f, z: sigmoid(f, z) * sigmoid(f, -z), 0.25),
    "tanh": Activation(lambda f, z: f.tanh(z), lambda f, z: (1 / f.cosh(z)) ** 2, 1.0),
    "erf": Activation(lambda f, z: f.erf(z), lambda f, z: 2 / f.sqrt(0 * z + f.pi) * f.exp(-z * z), 2 / np.sqrt(np.pi)),
    "softplus": Activation(
        lambda f, z: np.where(positive(z), z, 0 * z) + f.log1p(f.exp(np.where(positive(z), -z, z))),
        sigmoid, 1.0),
    "selu": Activation(
        lambda f, z: SELU_LAMBDA * np.where(positive(z), z, SELU_ALPHA * f.expm1(np.where(positive(z), 0 * z, z))),
        lambda f, z: SELU_LAMBDA * np.where(positive(z), 1, SELU_ALPHA * f.exp(np.where(positive(z), 0 * z, z))),
        SELU_LAMBDA * SELU_ALPHA, positive, np.negative),
    "gelu": Activation(
        lambda f, z: z * normal_cdf(f, z),
        lambda f, z: normal_cdf(f, z) + z * normal_pdf(f, z),
        1.1289041451851548),
    "silu": Activation(
        lambda f, z: z * sigmoid(f, z),
        lambda f, z: sigmoid(f, z) * (1 + z * sigmoid(f, -z)),
        1.0998393201288669),
}  # fmt: skip


def kinked(value, derivative, slope):
    """With slope 1 above 0 and this one just below; a negative one hides in phi(z) on which side z is."""
    side = positive if slope >= 0 and slope != 1 else None
    return Activation(value, derivative, max(1.0, abs(slope)), side, np.negative, dies=slope == 0)


def leaky_relu(slope):
    return kinked(
        lambda f, z: np.where(positive(z), z, slope * z), lambda f, z: np.where(positive(z), 1, slope + 0 * z), slope
    )._replace(homogeneous=True)


def elu(alpha):
    return kinked(
        lambda f, z: np.where(positive(z), z, alpha * f.expm1(np.where(positive(z), 0 * z, z))),
        lambda f, z: np.where(positive(z), 1, alpha * f.exp(np.where(positive(z), 0 * z, z))),
        alpha,
    )


WITH_PARAMETER = {"leaky_relu": leaky_relu, "elu": elu}


class ByName(dict):
    """Activations by name; those with a parameter for any of its values."""

    def __missing__(self, name):
        kind, value = name.split(":")
        self[name] = WITH_PARAMETER[kind](float(value))
        return self[name]


ACTIVATIONS = ByName(ACTIVATIONS | {"leaky_relu": leaky_relu(0.01), "elu": elu(1.0)})
for name in ("leaky_relu:0.3", "leaky_relu:-0.5", "leaky_relu:3.0", "elu:0.5", "elu:2.5", "elu:-1.5"):
    ACTIVATIONS[name]


def activate(name, z):
    """phi(z) and phi'(z) of an array of any kind."""
    f, activation = (MPMATH if is_mpmath(z) else NUMPY), ACTIVATIONS[name]
    with np.errstate(over="ignore", under="ignore"):  # exp(-z) of a saturated unit: 1 / inf is the 0 that is meant
        return activation.value(f, z), activation.derivative(f, z)


# --- Plain formulas: forward and losses, any kind of number ----------------------------------------------------------


def forward(layers, x):
    """Output of a stack of layers (weight (n_l, n_{l-1}), bias (n_l,) or None, activation)."""
    for weight, bias, name in layers:
        x, _ = activate(name, x @ weight.T + (0 if bias is None else bias))
    return x


def cross_entropy(y, labels):
    top = y.real.max(axis=1, keepdims=True)
    log_sum = top[:, 0] + np.log(np.exp(y - top).sum(axis=1))
    return (log_sum - y[np.arange(len(y)), labels]).mean()


def mse(y, target):
    return ((y - target) ** 2).mean()


# --- Rows: m * 2**e, one exponent a row; mpmath rows have e = 0 -------------------------------------------------------


class Rows(NamedTuple):
    m: np.ndarray  # (B, n)
    e: np.ndarray  # (B,) int64


def ldexp(m, e):
    if is_mpmath(m):
        return m
    with np.errstate(over="ignore", under="ignore"):
        return np.ldexp(m, np.clip(e, -5000, 5000).astype(np.int64)[:, None])


def scaled(m, e=0) -> Rows:
    """Rows with the largest magnitude in [1/2, 1); a zero row has exponent 0."""
    e = np.broadcast_to(np.asarray(e, np.int64), len(m))
    if is_mpmath(m):
        return Rows(m, e)
    _, k = np.frexp(abs(m).max(axis=1))
    return Rows(ldexp(m, -k.astype(np.int64)), np.where(m.any(axis=1), e + k, 0))


def add(p: Rows, q: Rows) -> Rows:
    lowest = -(2**62)  # of a zero row, which must not decide the exponent of a sum
    e = np.maximum(np.where(p.m.any(axis=1), p.e, lowest), np.where(q.m.any(axis=1), q.e, lowest))
    e = np.where(e == lowest, 0, e)
    return scaled(ldexp(p.m, p.e - e) + ldexp(q.m, q.e - e), e)


def log2(norm, e):
    with np.errstate(divide="ignore"):
        if is_mpmath(norm):
            return np.array([float(mp.log(n, 2)) if n else -np.inf for n in norm])
        return np.log2(norm) + e


def log2_norm(rows: Rows):
    squares = (rows.m * rows.m).sum(axis=1)
    return log2(MPMATH.sqrt(squares) if is_mpmath(squares) else np.sqrt(squares), rows.e)


def log2_total(m):
    """log2 of the norm of a whole array, whatever its range."""
    return float(log2_norm(scaled(np.asarray(m).reshape(1, -1)))[0])


def cross_entropy_rows(labels):
    """y -> gradient of `cross_entropy`: softmax / N, the label's entry minus the sum of the others."""
    return partial(cross_entropy_cotangent, labels)


def cross_entropy_cotangent(labels, y: Rows) -> Rows:
    y = ldexp(y.m, y.e)
    f = MPMATH if is_mpmath(y) else NUMPY
    label = np.arange(y.shape[1]) == np.asarray(labels)[:, None]
    if y.shape[1] == 1:
        return scaled(0 * y)
    gap = np.where(label, -np.inf, y - y[label][:, None])  # log(p_j / p_label)
    largest = gap.max(axis=1, keepdims=True)
    others = f.exp(gap - largest)
    top = np.where(positive(largest), largest, 0 * largest)
    below = largest - top  # softmax of the others is others * exp(below) / (exp(-top) + sum * exp(below))
    others = others / (f.exp(-top) + others.sum(axis=1, keepdims=True) * f.exp(below)) / len(y)
    others[label] = -others.sum(axis=1)
    if is_mpmath(y):
        return scaled(others * f.exp(below))
    k = np.floor(below / np.log(2))
    return scaled(others * np.exp(below - k * np.log(2)), k[:, 0])


def mse_rows(target):
    """y -> gradient of `mse`: 2 (y - t) / (N n)."""
    return partial(mse_cotangent, target)


def mse_cotangent(target, y: Rows) -> Rows:
    difference = add(y, scaled(-target))
    return scaled(difference.m * 2 / target.size, difference.e)


# --- The trace ------------------------------------------------------------------------------------------------------


def phi(name, z: Rows):
    """Activation and derivative of rows; beyond 2^+-500 phi is its own limit: homogeneous near 0, or saturated."""
    near = np.clip(z.e, -500, 500)
    a, derivative = activate(name, ldexp(z.m, near))
    zero_at_zero = name not in ("sigmoid", "softplus")
    carries = ACTIVATIONS[name].homogeneous | (zero_at_zero & (z.e < 0))
    return scaled(a, np.where(carries, z.e - near, 0)), derivative


class Rounding:
    """The deviation of every entry of z, at its row's exponent, where each operation errs by `unit` at random.

    To first order and as if errors were independent: what `trace` with that `roundoff` draws, and so as near.
    """

    def __init__(self, x: Rows, unit):
        self.unit, self.a, self.deviation = unit, x, 0 * abs(x.m)

    def of_product(self, weight, bias, z: Rows):
        size = abs(weight).max(axis=1)
        size = np.where(size == 0, 1, size)
        inherited = np.sqrt(self.deviation**2 @ (weight / size[:, None]).T ** 2) * size
        terms = ldexp(abs(self.a.m) @ abs(weight).T, self.a.e - z.e)
        terms += 0 if bias is None else ldexp(np.broadcast_to(abs(bias), terms.shape), -z.e)
        self.deviation = np.hypot(ldexp(inherited, self.a.e - z.e), self.unit * terms)

    def of_activation(self, derivative, z: Rows, a: Rows):
        self.a, self.deviation = a, np.hypot(ldexp(derivative * self.deviation, z.e - a.e), self.unit * abs(a.m))


class Kept(NamedTuple):
    """What an implementation's kept activations say about its kinks."""

    sides: list  # of each layer, where its output is on the side that `Activation.side` calls True; None without a kink
    unit: float  # its rounding error


def sides(layers, kept) -> Kept | None:
    if kept is None:
        return None
    plain = [ldexp(a.mantissa.astype(float), np.clip(a.exponent, -500, 500)) for a in kept]
    by_layer = [ACTIVATIONS[name].side for _, _, name in layers]
    shown = [side and side(a) for side, a in zip(by_layer, plain, strict=True)]
    return Kept(shown, np.finfo(kept[0].mantissa.dtype).eps / 2)


def on_the_side_of(name, z: Rows, there, reach):
    """z moved across a kink that is within `reach` where the implementation, `there`, is beyond; and which moved.

    A z within its rounding error of a kink may be on either side of it (theory.md, H), no other.
    """
    side, mirror = ACTIVATIONS[name].side, ACTIVATIONS[name].mirror
    if side is None:
        return z, np.zeros(z.m.shape, bool)
    near = np.clip(z.e, -500, 500)
    plain = ldexp(z.m, near)
    other = mirror(plain)
    moved = (side(plain) != there) & (abs(other - plain) / 2 <= ldexp(reach, near))
    return scaled(np.where(moved, other, plain), z.e - near), moved


def trace(layers, x, cotangent, *, roundoff=0.0, seed=0, kept=None):
    """All per-sample rows and every figure of a trace, by its public name.

    `cotangent` is dL/dy or a function of the output's rows. `roundoff` makes a machine that errs by that much at every
    operation, at random: what it gets wrong is what no implementation of that precision can get right. `kept` are an
    implementation's kept activations: kinks within rounding are passed on its side, which is rare.
    """
    return traced(layers, x, cotangent, sides(layers, kept), roundoff, seed if roundoff else 0)


@remembered(12)
def traced(layers, x, cotangent, kept: Kept | None, roundoff, seed):
    rng = np.random.default_rng(seed)

    def rounded(value, magnitude):
        return value + roundoff * magnitude * rng.standard_normal(np.shape(value)) if roundoff else value

    def product(rows, matrix):
        return scaled(rounded(rows.m @ matrix, abs(rows.m) @ abs(matrix)), rows.e)

    a, z, derivatives, moved = [scaled(x)], [], [], []
    machine = kept and Rounding(a[0], max(kept.unit, roundoff))
    for layer, (weight, bias, name) in enumerate(layers):
        z_l = product(a[layer], weight.T)
        if bias is not None:
            z_l = add(z_l, scaled(np.broadcast_to(bias, z_l.m.shape)))
        if kept:
            machine.of_product(weight, bias, z_l)
            z_l, across = on_the_side_of(
                name, z_l, kept.sides[layer], tolerance("kink", "deviations") * machine.deviation
            )
            moved.append(across.sum())
        a_l, derivative = phi(name, z_l)
        if kept:
            machine.of_activation(derivative, z_l, a_l)
        z.append(z_l)
        a.append(Rows(rounded(a_l.m, abs(a_l.m)), a_l.e))
        derivatives.append(rounded(derivative, abs(derivative)))

    most = 1 + tolerance("kink", "share moved") * sum(rows.m.size for rows in z)
    assert sum(moved) <= most, f"{moved} entries of each layer are across a kink, by rounding at most {most:.1f} in all"

    top = cotangent(a[-1]) if callable(cotangent) else scaled(cotangent)
    da, delta = [top], []  # da[l]: dL/d(output of layer l); last comes dL/dx
    for (weight, _, _), derivative in zip(reversed(layers), reversed(derivatives), strict=True):
        delta.append(scaled(rounded(derivative * da[-1].m, abs(derivative * da[-1].m)), da[-1].e))
        da.append(product(delta[-1], weight))
    dx, da, delta = da[-1], da[-2::-1], delta[::-1]
    result = figures(layers, a, z, derivatives, delta, da, dx, rounded)
    return SimpleNamespace(a=a, z=z, delta=delta, da=da, dx=dx, moved=moved, **result)


def figures(layers, a, z, derivatives, delta, da, dx, rounded):
    log2_delta = np.array([log2_norm(d) for d in delta])
    log2_da = np.array([log2_norm(g) for g in da])
    propagated = np.array([log2_norm(dx), *log2_da[:-1]])  # log2|W_l^T delta_l|
    log2_activation = np.array([log2_norm(r) for r in a])
    weight_gradients = [weight_gradient(d, i, rounded) for d, i in zip(delta, a[:-1], strict=True)]
    bias_gradients = [weight_gradient(d, Rows(np.ones_like(d.m[:, :1]), 0 * d.e), rounded) for d in delta]
    with np.errstate(invalid="ignore"):  # -inf - -inf: the NaN of a gain that starts from zero
        result = {
            "log2_cotangent": log2_da[-1],
            "log2_grad_input": propagated[0],
            "log2_delta": log2_delta,
            "log2_delta_max": np.array([log2(abs(d.m).max(axis=1), d.e) for d in delta]),
            "log2_activation": log2_activation,
            "log2_preactivation": np.array([log2_norm(r) for r in z]),
            "log2_weight": np.array([log2_total(weight) for weight, _, _ in layers]),
            "activation_gain": log2_delta - log2_da,
            "weight_gain": propagated - log2_delta,
            "log2_grad_weight_sample": log2_delta + log2_activation[:-1],
            "log2_grad_weight": np.array([log2_total(m) + e for m, e in weight_gradients]),
            "log2_grad_bias": np.array([log2_total(m) + e for m, e in bias_gradients]),
        }
    if not is_mpmath(a[0].m):
        result |= statistics(layers, a, z, derivatives)
    return result


def weight_gradient(delta: Rows, a: Rows, rounded=lambda value, _: value):
    """Sum over samples of delta a^T at the largest exponent of the batch: (n_l, n_{l-1}) and that exponent."""
    e = delta.e + a.e
    alive = delta.m.any(axis=1) & a.m.any(axis=1)
    top = e[alive].max() if alive.any() else 0
    aligned = ldexp(np.where(alive[:, None], delta.m, 0 * delta.m), e - top).T
    return rounded(aligned @ a.m, abs(aligned) @ abs(a.m)), int(top)


def statistics(layers, a, z, derivatives):
    """Over batch and units, of the true values; a value beyond float64 reads 0 or inf."""
    z, a = [ldexp(*r) for r in z], [ldexp(*r) for r in a[1:]]
    share = [abs(d) / ACTIVATIONS[name].largest for d, (_, _, name) in zip(derivatives, layers, strict=True)]
    off = [(s == 0) & ACTIVATIONS[name].dies for s, (_, _, name) in zip(share, layers, strict=True)]
    with np.errstate(over="ignore", invalid="ignore"):
        return {
            "preactivation_mean": np.array([v.mean() for v in z]),
            "preactivation_std": np.array([v.std() for v in z]),
            "activation_mean": np.array([v.mean() for v in a]),
            "activation_std": np.array([v.std() for v in a]),
            "derivative_mean": np.array([s.mean() for s in share]),
            "saturated": np.array([(s < 0.05).mean() for s in share]),
            "dead_units": np.array([o.all(axis=0).mean() for o in off]),
            "dead_samples": np.array([o.all(axis=1).mean() for o in off]),
        }
