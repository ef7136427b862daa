"""Accuracy of the SIMD mathematics over the whole line, in ULP against mpmath, on every ISA and dtype."""

from collections.abc import Callable
from functools import cache

import mpmath as mp
import numpy as np
import pytest
import reference
from tolerances import tolerance

from gradtrace import _core
from gradtrace._core import derivative_sup, kernels

DIGITS = 40  # of the exact values


def sigmoid(x: mp.mpf) -> mp.mpf:
    return 1 / (1 + mp.exp(-x))


def erfc(x: mp.mpf) -> mp.mpf:
    return mp.erfc(x) if abs(x) < 1e6 else mp.mpf(2 if x < 0 else 0)  # mpmath's series test overflows beyond


def normal_cdf(x: mp.mpf) -> mp.mpf:
    return erfc(-x / mp.sqrt(2)) / 2


SELU_ALPHA, SELU_SCALE = mp.mpf(1.6732632423543772), mp.mpf(1.0507009873554805)

FUNCTIONS: dict[str, Callable[[mp.mpf], mp.mpf]] = {
    "exp": mp.exp,
    "expm1": mp.expm1,
    "log": lambda x: mp.log(x) if x > 0 else mp.nan,
    "log1p": lambda x: mp.log1p(x) if x > -1 else mp.nan,
    "log2": lambda x: mp.log(x) / mp.log(2) if x > 0 else mp.nan,
    "tanh": mp.tanh,
    "sigmoid": sigmoid,
    "erf": mp.erf,
    "erfc": erfc,
}

# Value and derivative, with the constants as the core rounds them.
ACTIVATIONS: dict[str, tuple[Callable[[mp.mpf], mp.mpf], Callable[[mp.mpf], mp.mpf]]] = {
    "linear": (lambda z: z, lambda z: mp.mpf(1)),
    "sigmoid": (sigmoid, lambda z: sigmoid(z) * sigmoid(-z)),
    "tanh": (mp.tanh, lambda z: 1 / mp.cosh(z) ** 2),
    "relu": (lambda z: max(z, mp.mpf(0)), lambda z: mp.mpf(z > 0)),
    "leaky_relu": (lambda z: z if z > 0 else mp.mpf(0.01) * z, lambda z: mp.mpf(1) if z > 0 else mp.mpf(0.01)),
    "elu": (lambda z: z if z > 0 else mp.expm1(z), lambda z: mp.mpf(1) if z > 0 else mp.exp(z)),
    "selu": (
        lambda z: SELU_SCALE * (z if z > 0 else SELU_ALPHA * mp.expm1(z)),
        lambda z: SELU_SCALE * (1 if z > 0 else SELU_ALPHA * mp.exp(z)),
    ),
    "softplus": (lambda z: max(z, mp.mpf(0)) + mp.log1p(mp.exp(-abs(z))), sigmoid),
    "gelu": (
        lambda z: z * normal_cdf(z),
        lambda z: normal_cdf(z) + z * mp.exp(-z * z / 2) / mp.sqrt(2 * mp.pi),
    ),
    "silu": (lambda z: z * sigmoid(z), lambda z: sigmoid(z) * (1 + z * sigmoid(-z))),
    "erf": (mp.erf, lambda z: 2 / mp.sqrt(mp.pi) * mp.exp(-z * z)),
    "hard_tanh": (lambda z: max(min(z, mp.mpf(1)), mp.mpf(-1)), lambda z: mp.mpf(abs(z) < 1)),
}


def leaky_relu(slope: mp.mpf) -> tuple[Callable[[mp.mpf], mp.mpf], Callable[[mp.mpf], mp.mpf]]:
    return lambda z: z if z > 0 else slope * z, lambda z: mp.mpf(1) if z > 0 else slope


def elu(alpha: mp.mpf) -> tuple[Callable[[mp.mpf], mp.mpf], Callable[[mp.mpf], mp.mpf]]:
    return lambda z: z if z > 0 else alpha * mp.expm1(z), lambda z: mp.mpf(1) if z > 0 else alpha * mp.exp(z)


ACTIVATIONS |= {f"leaky_relu:{slope}": leaky_relu(mp.mpf(slope)) for slope in (0.3, -0.5, 3.0)}
ACTIVATIONS |= {f"elu:{alpha}": elu(mp.mpf(alpha)) for alpha in (0.5, 2.5, -1.5)}

# Their derivative crosses zero, where no relative accuracy exists: measured in ULP of 1/2 near there.
SIGN_CHANGES = {"gelu": -0.7517915246935645, "silu": -1.2784645427610738}


@cache
def points(dtype: str) -> np.ndarray:
    """Both signs from subnormals to overflow, dense where functions bend, random bits."""
    rng = np.random.default_rng(0)
    info = np.finfo(dtype)
    low, high = np.log2(float(info.smallest_subnormal)), np.log2(float(info.max))
    size = np.exp2(np.concatenate([rng.uniform(low, high, 150), rng.uniform(-30, 10, 300), rng.uniform(-4, 7, 500)]))
    dense = np.concatenate([rng.uniform(0, 1, 150), rng.uniform(0, 30, 150), rng.uniform(80, 110, 60)])
    edges = [0.25, 0.34657359, 0.5, 0.70710678, 1.0, 1.41421356, 2.0, 9.01, 27.2, 87.3, 88.7, 103.9, 709.7, 745.1]
    size = np.concatenate([size, dense, edges]).astype(dtype)
    size = np.concatenate([size, [info.tiny, info.smallest_subnormal, info.max]]).astype(dtype)
    return np.concatenate([size, -size, np.zeros(1, dtype), -np.zeros(1, dtype)])


def ulp_error(got: np.ndarray, exact: list[mp.mpf], floor: float = 0.0) -> float:
    """Largest error of normal results, in units in the last place of the exact value; a unit of at least `floor`'s.

    Subnormal results (ops flush them) may be off by a few of the smallest one.
    """
    worst, info = 0.0, np.finfo(got.dtype)
    largest, smallest = mp.mpf(float(info.max)), mp.mpf(float(info.tiny))
    for value, true in zip(got, exact, strict=True):
        if mp.isnan(true):
            assert np.isnan(value)
        elif abs(true) > largest:  # overflow, rounding included
            assert np.sign(value) == mp.sign(true)
            assert abs(value) >= info.max
        else:
            size = np.nextafter(got.dtype.type(max(float(abs(true)), floor, float(info.tiny))), got.dtype.type(0))
            units = float(abs(mp.mpf(float(value)) - true) / mp.mpf(float(np.spacing(size))))
            if abs(true) < smallest and floor == 0:
                assert units <= tolerance("ulp", "subnormal", str(got.dtype))
            else:
                worst = max(worst, units)
    return worst


def row_of(name: str) -> str:
    """What tolerances call an activation: with a colon, but without its parameter."""
    return "".join(name.partition(":")[:2])


@cache
def exact_values(kind: str, name: str, dtype: str) -> list[mp.mpf]:
    function = {
        "math": lambda: FUNCTIONS[name],
        "value": lambda: ACTIVATIONS[name][0],
        "derivative": lambda: ACTIVATIONS[name][1],
    }[kind]()
    with mp.workdps(DIGITS):
        return [function(mp.mpf(float(x))) for x in points(dtype)]


@pytest.mark.parametrize("name", FUNCTIONS)
def test_function(isa: str, name: str, dtype: str) -> None:
    x = points(dtype)
    exact = exact_values("math", name, dtype)
    kept = [i for i in range(len(x)) if not (name.startswith("log") and x[i] in (0, -1))]
    error = ulp_error(kernels.math(name, x)[kept], [exact[i] for i in kept])
    assert error <= tolerance("ulp", name, dtype)


def test_every_activation_is_measured() -> None:
    assert {row["name"] for row in _core.activations()} == {n for n in ACTIVATIONS if ":" not in n}
    assert set(ACTIVATIONS) == set(reference.ACTIVATIONS)


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_activation(isa: str, name: str, dtype: str) -> None:
    z = points(dtype)
    value, derivative = kernels.activation(name, z)
    assert ulp_error(value, exact_values("value", name, dtype)) <= tolerance("ulp", "phi." + row_of(name), dtype)
    limit, exact = tolerance("ulp", "dphi." + row_of(name), dtype), exact_values("derivative", name, dtype)
    near = abs(z - SIGN_CHANGES.get(name, np.inf)) < 0.5
    assert near.any() == (name in SIGN_CHANGES)
    assert ulp_error(derivative[near], [e for e, n in zip(exact, near, strict=True) if n], floor=0.5) <= limit
    assert ulp_error(derivative[~near], [e for e, n in zip(exact, near, strict=True) if not n]) <= limit


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_log_derivative_beyond_underflow(isa: str, name: str) -> None:
    z = np.concatenate([np.linspace(-60, 60, 121) + 0.013, [-900.0, -1e5, -1e30, 900.0, 1e5, 1e30, -1e150, 1e150]])
    log_magnitude, sign = kernels.log_derivative(name, z)
    with mp.workdps(60):
        for value, direction, x in zip(log_magnitude, sign, z, strict=True):
            if abs(x) > 1e6:  # mpmath cannot hold exp(-1e60); leading terms
                exact = {"gelu": -x * x / 2 if x < 0 else 0.0, "erf": -x * x, "tanh": -2 * abs(x), "sigmoid": -abs(x)}
                exact |= {"softplus": min(x, 0.0), "silu": min(x, 0.0), "elu": min(x, 0.0), "selu": min(x, 0.0)}
                if (kind := name.partition(":")[0]) in exact:
                    assert value == pytest.approx(
                        exact[kind],
                        rel=tolerance("recomputed", "sums"),
                        abs=tolerance("log derivative", "beyond the leading term"),
                    )
                continue
            true = ACTIVATIONS[name][1](mp.mpf(float(x)))
            if true == 0:
                assert direction == 0
                continue
            assert direction == mp.sign(true)
            true_log = float(mp.log(abs(true)))
            # Next to a sign change ln|phi'| is as ill-conditioned as phi' itself.
            loose = name in SIGN_CHANGES and abs(x - SIGN_CHANGES[name]) < 0.5
            near = tolerance("log derivative", "near a sign change" if loose else "near 0")
            assert value == pytest.approx(true_log, rel=tolerance("recomputed", "tens of roundings"), abs=near)


def test_special_values(isa: str, dtype: str) -> None:
    infinity, nan = np.inf, np.nan
    x = np.array([0.0, -0.0, infinity, -infinity, nan], dtype)
    table = {
        "exp": [1, 1, infinity, 0, nan],
        "expm1": [0, -0.0, infinity, -1, nan],
        "log": [-infinity, -infinity, infinity, nan, nan],
        "log2": [-infinity, -infinity, infinity, nan, nan],
        "log1p": [0, -0.0, infinity, nan, nan],
        "tanh": [0, -0.0, 1, -1, nan],
        "sigmoid": [0.5, 0.5, 1, 0, nan],
        "erf": [0, -0.0, 1, -1, nan],
        "erfc": [1, 1, 0, 2, nan],
    }
    assert set(table) == set(FUNCTIONS)
    for name, expected in table.items():
        got = kernels.math(name, x)
        np.testing.assert_array_equal(got, np.array(expected, dtype), err_msg=name)
        if name in ("expm1", "log1p", "tanh", "erf"):
            assert np.signbit(got[1]), f"{name} loses the sign of zero"
    assert kernels.math("log1p", np.array([-1], dtype))[0] == -infinity


def test_activations_at_infinity_zero_and_nan(isa: str, dtype: str) -> None:
    infinity, nan = np.inf, np.nan
    z = np.array([infinity, -infinity, nan, 0.0, -0.0], dtype)
    slope, selu_low = np.dtype(dtype).type(0.01), -1.6732632423543772 * 1.0507009873554805
    erf_slope, scale = 2 / np.sqrt(np.pi), 1.0507009873554805
    table = {
        "linear": ([infinity, -infinity, nan, 0, 0], [1, 1, nan, 1, 1]),
        "sigmoid": ([1, 0, nan, 0.5, 0.5], [0, 0, nan, 0.25, 0.25]),
        "tanh": ([1, -1, nan, 0, 0], [0, 0, nan, 1, 1]),
        "relu": ([infinity, 0, nan, 0, 0], [1, 0, nan, 0, 0]),
        "leaky_relu": ([infinity, -infinity, nan, 0, 0], [1, slope, nan, slope, slope]),
        "elu": ([infinity, -1, nan, 0, 0], [1, 0, nan, 1, 1]),
        "selu": ([infinity, selu_low, nan, 0, 0], [scale, 0, nan, -selu_low, -selu_low]),
        "softplus": ([infinity, 0, nan, np.log(2), np.log(2)], [1, 0, nan, 0.5, 0.5]),
        "gelu": ([infinity, 0, nan, 0, 0], [1, 0, nan, 0.5, 0.5]),
        "silu": ([infinity, 0, nan, 0, 0], [1, 0, nan, 0.5, 0.5]),
        "erf": ([1, -1, nan, 0, 0], [0, 0, nan, erf_slope, erf_slope]),
        "hard_tanh": ([1, -1, nan, 0, 0], [0, 0, nan, 1, 1]),
    }
    table |= {
        f"leaky_relu:{k}": ([infinity, np.copysign(infinity, -k), nan, 0, 0], [1, k, nan, k, k])
        for k in (0.3, -0.5, 3.0)
    }
    table |= {f"elu:{k}": ([infinity, -k, nan, 0, 0], [1, 0, nan, k, k]) for k in (0.5, 2.5, -1.5)}
    assert set(table) == set(ACTIVATIONS)
    for name, (value, derivative) in table.items():
        got_value, got_derivative = kernels.activation(name, z)
        tolerance = 4 * np.finfo(dtype).eps
        np.testing.assert_allclose(got_value, np.array(value, dtype), rtol=tolerance, err_msg=name)
        np.testing.assert_allclose(got_derivative, np.array(derivative, dtype), rtol=tolerance, err_msg=name)


@pytest.mark.parametrize("size", [0, 1, 2, 3, 4, 5, 7, 8, 9, 15, 16, 17, 31, 33, 35, 1000])
def test_every_length_gives_the_same_bits(isa: str, dtype: str, size: int) -> None:
    """The tail meets the same instructions as the middle; nothing is written past the end."""
    x = np.random.default_rng(1).standard_normal(1024).astype(dtype) * 3
    for name in ("exp", "tanh", "log1p"):
        whole = kernels.math(name, np.abs(x))
        np.testing.assert_array_equal(kernels.math(name, np.abs(x[:size])), whole[:size])
    value, derivative = kernels.activation("gelu", x)
    part = kernels.activation("gelu", x[:size].copy())
    np.testing.assert_array_equal(part[0], value[:size])
    np.testing.assert_array_equal(part[1], derivative[:size])


def test_sup_of_every_derivative() -> None:
    """The table's sup |phi'| is reached and never passed."""
    z = np.concatenate([np.linspace(-40, 40, 800001), [np.sqrt(2.0), -np.sqrt(2.0)]])
    for row in _core.activations():
        assert derivative_sup(row["name"]) == row["sup"]
    for name in ACTIVATIONS:
        largest = np.abs(kernels.activation(name, z)[1]).max()
        assert largest == pytest.approx(derivative_sup(name), rel=tolerance("oracle", "largest derivative")), name
