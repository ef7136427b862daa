"""Every figure of a stack's trace against the oracle, and the split into what activation and weights did."""

import numpy as np
import pytest
from portable_cases import build, converted, random_case, random_layers
from reference import ACTIVATIONS, Rows, ldexp, log2_norm, log2_total, scaled, trace, weight_gradient
from roundoff import rounding
from tolerances import FIGURES, assert_close, assert_figures, tolerance

import gradtrace as gt

ALL_KEPT = ("deltas", "activations", "grad_weights", "grad_biases")


def traced(layers, x, cotangent, keep=ALL_KEPT):
    return build(layers).trace(x, cotangent=cotangent, keep=keep)


def case(name, dtype, sizes=(9, 40, 33, 17, 40, 6), batch=21, bias=0.5):
    return random_case(sum(map(ord, name)), sizes, name, dtype, batch, bias=bias)


@pytest.mark.parametrize("bias", [0.5, None], ids=["biases", "no biases"])
@pytest.mark.parametrize("name", ACTIVATIONS)
def test_every_figure_agrees_with_the_oracle(name, bias, dtype, isa):
    layers, x, cotangent = case(name, dtype, bias=bias)
    got = traced(layers, x, cotangent)
    limit = rounding(layers, x, cotangent, dtype, kept=got.activations)
    assert_figures(got, trace(converted(layers, np.float64), x, cotangent, kept=got.activations), limit)


@pytest.mark.parametrize("name", [name for name, phi in ACTIVATIONS.items() if phi.side])
def test_an_implementation_that_takes_phi_of_minus_z_is_found_out(name, dtype):
    """The oracle passes kinks on the implementation's side within rounding only; parameters negated are phi(-z)."""
    layers, x, cotangent = case(name, dtype)
    mirrored = traced([(-w, -b, phi) for w, b, phi in layers], x, cotangent)
    limit = rounding(layers, x, cotangent, dtype, kept=mirrored.activations)
    exact = trace(converted(layers, np.float64), x, cotangent, kept=mirrored.activations)
    for figure in ("log2_delta", "log2_grad_input", "log2_activation", "log2_grad_weight"):
        with pytest.raises(AssertionError, match=figure):
            assert_figures(mirrored, exact, limit, [figure])


def test_layers_may_differ_in_activation_and_some_lack_a_bias(dtype, isa):
    names = list(ACTIVATIONS)
    rng = np.random.default_rng(5)
    layers = random_layers(rng, [20] * (len(names) + 1), "tanh", dtype, gain=1.5, bias=0.3)
    layers = [(w, b if i % 3 else None, name) for i, ((w, b, _), name) in enumerate(zip(layers, names, strict=True))]
    x, cotangent = rng.standard_normal((2, 19, 20)).astype(dtype)
    got = traced(layers, x, cotangent)
    limit = rounding(layers, x, cotangent, dtype, kept=got.activations)
    assert_figures(got, trace(converted(layers, np.float64), x, cotangent, kept=got.activations), limit)


@pytest.mark.parametrize("name", ["sigmoid", "tanh", "relu", "gelu"])
def test_gains_are_what_kept_deltas_and_weights_give(name, dtype, isa):
    layers, x, cotangent = case(name, dtype)
    got = traced(layers, x, cotangent)
    deltas = [scaled(d.mantissa.astype(np.float64), d.exponent) for d in got.deltas]
    propagated = [
        log2_norm(scaled(d.m @ w.astype(np.float64), d.e)) for d, (w, _, _) in zip(deltas, layers, strict=True)
    ]
    norms = np.array([log2_norm(d) for d in deltas])
    above = np.array([*propagated[1:], log2_norm(scaled(cotangent.astype(np.float64)))])
    limit = tolerance("gains", "recomputed", dtype)
    assert_close(got.log2_delta, norms, tolerance("scaled", "log2", dtype))
    assert_close(got.weight_gain, np.array(propagated) - norms, limit)
    assert_close(got.activation_gain, norms - above, limit)
    assert_close(got.log2_grad_input, propagated[0], limit)


def test_derivatives_are_what_kept_arrays_give(dtype, isa):
    """delta = phi' * W^T delta of the layer above, entry by entry, with phi' of the oracle."""
    layers, x, cotangent = case("tanh", dtype)
    got = traced(layers, x, cotangent)
    exact = trace(converted(layers, np.float64), x, cotangent)
    for kept, expected in zip(got.deltas, exact.delta, strict=True):
        limit = tolerance("gradient", "entries", dtype) * abs(ldexp(*expected)).max()
        assert_close(kept.to_numpy(np.float64), ldexp(*expected), limit)


@pytest.mark.parametrize("name", ["sigmoid", "tanh", "relu", "silu"])
def test_gains_add_up_to_the_change_of_the_norm(name, dtype, isa):
    rng = np.random.default_rng(1)
    layers = random_layers(rng, [24] * 301, name, dtype, gain=1.3, output="linear")
    x, cotangent = rng.standard_normal((2, 5, 24)).astype(dtype)
    got = traced(layers, x, cotangent, keep=())
    assert np.all(np.isfinite(got.log2_delta))
    below = np.vstack([got.log2_delta, got.log2_cotangent])
    weights = np.vstack([got.weight_gain[1:], np.zeros_like(got.log2_cotangent)])
    limit = tolerance("gains", "identity", dtype)
    assert_close(got.log2_delta, below[1:] + weights + got.activation_gain, limit)
    assert_close(got.log2_grad_input, got.log2_delta[0] + got.weight_gain[0], limit)


def test_weight_and_bias_gradients_entry_by_entry(dtype, isa):
    layers, x, cotangent = case("elu", dtype)
    got = traced(layers, x, cotangent)
    exact = trace(converted(layers, np.float64), x, cotangent)
    for layer, (delta, a) in enumerate(zip(exact.delta, exact.a, strict=False)):
        ones = Rows(np.ones_like(delta.m[:, :1]), 0 * delta.e)
        for kept, inputs in ((got.grad_weights[layer], a), (got.grad_biases[layer], ones)):
            gradient, e = weight_gradient(delta, inputs)
            gradient = np.ldexp(gradient, e).reshape(kept.mantissa.shape)
            assert kept.exponent.shape == ()
            limit = tolerance("gradient", "entries", dtype) * abs(gradient).max()
            assert_close(kept.to_numpy(np.float64), gradient, limit)


def test_kept_arrays_have_the_norms_of_the_trace(dtype, isa):
    layers, x, cotangent = case("sigmoid", dtype)
    got = traced(layers, x, cotangent)
    limit = tolerance("scaled", "log2", dtype)
    for layer in range(got.depth):
        assert_close(got.deltas[layer].log2_norm(axis=1), got.log2_delta[layer], limit)
        assert_close(got.deltas[layer].log2_norm(), log2_total(got.deltas[layer].to_numpy(np.float64)), limit)
        assert_close(got.activations[layer].log2_norm(axis=1), got.log2_activation[layer + 1], limit)
        assert_close(got.grad_weights[layer].log2_norm(), got.log2_grad_weight[layer], limit)
        assert_close(got.grad_biases[layer].log2_norm(), got.log2_grad_bias[layer], limit)
        assert_close(got.log2_delta_max[layer], np.log2(abs(got.deltas[layer].to_numpy(np.float64)).max(axis=1)), limit)


def test_kept_rows_are_normalised(dtype, isa):
    layers, x, cotangent = case("relu", dtype)
    x[3], cotangent[4] = 0, 0
    layers = [(w, None, name) for w, _, name in layers]
    got = traced(layers, x, cotangent)
    for kept in [*got.deltas, *got.activations]:
        largest = abs(kept.mantissa).max(axis=1)
        zero = largest == 0
        assert kept.mantissa.dtype == dtype
        assert kept.exponent.dtype == np.int64
        assert np.all(zero | ((largest >= 0.5) & (largest < 1)))
        assert np.all(kept.exponent[zero] == 0)
    assert all(kept.mantissa[4].max() == 0 for kept in got.deltas)
    assert all(kept.mantissa[3].max() == 0 for kept in got.activations)


def test_first_layer_reads_the_input_and_shapes_are_the_contract(dtype, isa):
    layers, x, cotangent = case("tanh", dtype)
    got = traced(layers, x, cotangent, keep=())
    depth, batch = len(layers), len(x)
    assert_close(got.log2_activation[0], log2_norm(scaled(x.astype(np.float64))), tolerance("scaled", "log2", dtype))
    shapes = {"log2_activation": (depth + 1, batch), "log2_grad_input": (batch,), "log2_cotangent": (batch,),
              "log2_grad_weight": (depth,), "log2_grad_bias": (depth,), "log2_weight": (depth,)}  # fmt: skip
    for name in FIGURES:
        assert getattr(got, name).shape == shapes.get(name, (depth, batch)), name
        assert getattr(got, name).dtype == np.float64
    assert got.loss is None
    assert got.first_nonfinite is None


@pytest.mark.parametrize("per_sample", [True, False])
def test_arrays_that_were_not_asked_for_are_not_there(per_sample):
    got = gt.Stack.random([3, 4, 2]).trace(np.ones((2, 3), "float32"), per_sample=per_sample)
    for name in ALL_KEPT:
        with pytest.raises(AttributeError, match=name):
            getattr(got, name)


@pytest.mark.parametrize("batch", [1, 2, 15, 16, 17, 63, 64, 65, 130])
def test_a_sample_does_not_see_its_neighbours(batch, dtype, isa):
    """The same samples alone, in any block and beside huge or tiny rows."""
    layers, _, _ = case("tanh", dtype)
    rng = np.random.default_rng(batch)
    x, cotangent = rng.standard_normal((batch, 9)).astype(dtype), rng.standard_normal((batch, 6)).astype(dtype)
    cotangent *= np.exp2(rng.integers(-60, 60, (batch, 1))).astype(dtype)
    got = traced(layers, x, cotangent, keep=())
    for b in {0, batch // 2, batch - 1}:
        alone = traced(layers, x[b : b + 1], cotangent[b : b + 1], keep=())
        for name in ("log2_delta", "log2_grad_input", "weight_gain", "log2_activation", "log2_preactivation"):
            assert_close(
                getattr(alone, name)[..., 0], getattr(got, name)[..., b], tolerance("chunks", "log2", dtype), name
            )


def test_forward_gives_the_plain_values(dtype, isa):
    for name in ACTIVATIONS:
        layers, x, cotangent = case(name, dtype)
        exact = ldexp(*trace(converted(layers, np.float64), x, cotangent).a[-1])
        y = build(layers).forward(x)
        assert y.dtype == dtype
        assert_close(y, exact, tolerance("gradient", "entries", dtype) * abs(exact).max(), name)


def test_forward_reads_zero_and_infinity_where_the_format_ends(isa):
    for gain, end in ((1e-30, 0), (1e30, np.inf)):
        layers = [(np.full((1, 1), gain, "float32"), None, "linear")] * 3
        assert build(layers).forward(np.ones((1, 1), "float32"))[0, 0] == end


@pytest.mark.parametrize("keep", [("deltas",), ("activations",), ("grad_weights",), ("grad_biases",), ()])
def test_keeping_changes_no_figure(keep, dtype, isa):
    layers, x, cotangent = case("softplus", dtype, batch=70)
    everything, some = traced(layers, x, cotangent), traced(layers, x, cotangent, keep=keep)
    for name in FIGURES:
        if name not in ("log2_grad_weight", "log2_grad_bias"):
            np.testing.assert_array_equal(getattr(everything, name), getattr(some, name), name)
    limit = tolerance("chunks", "log2", dtype)
    assert_figures(some, everything, limit, ("log2_grad_weight", "log2_grad_bias"))


@pytest.mark.parametrize("batch", [1, 2, 17])
def test_any_choice_of_kept_arrays_gives_the_same_figures(batch, dtype, isa):
    layers, x, cotangent = case("tanh", dtype, batch=batch)
    everything = traced(layers, x, cotangent)
    for choice in range(2 ** len(ALL_KEPT) - 1):
        keep = [name for i, name in enumerate(ALL_KEPT) if choice >> i & 1]
        got = traced(layers, x, cotangent, keep)
        for name in ("log2_delta", "log2_grad_weight", "log2_grad_bias"):
            assert_close(getattr(got, name), getattr(everything, name), tolerance("chunks", "log2", dtype), name)
        for name in keep:
            for some, all_of_them in zip(getattr(got, name), getattr(everything, name), strict=True):
                assert np.array_equal(some.to_numpy(), all_of_them.to_numpy()), name


@pytest.mark.parametrize("scale", [1, 0, 1e30, 1e-30, np.nan])
@pytest.mark.parametrize("units", [1, 7, 8, 100])
def test_one_sample_finds_norms_and_products_in_one_reading_of_the_weights(units, scale, dtype, isa):
    """Only the first sample of a trace reads them so; the second is told by the product alone."""
    rng = np.random.default_rng(units)
    shapes = (units, 5), (units, units), (3, units)
    weights = [(rng.standard_normal(shape) / np.sqrt(shape[1])).astype(dtype) for shape in shapes]
    weights[1] *= np.array(scale, dtype)
    stack = gt.Stack(weights, activation="tanh")
    x, cotangent = rng.standard_normal((2, 5)).astype(dtype), rng.standard_normal((2, 3)).astype(dtype)
    together, many = stack.trace(list(x[:, None]), cotangent=list(cotangent[:, None])), stack.trace(x)
    first, second = (stack.trace(x[i : i + 1], cotangent=cotangent[i : i + 1]) for i in range(2))
    for name in ("log2_delta", "log2_preactivation", "weight_gain", "log2_grad_input"):
        both = np.concatenate([getattr(first, name), getattr(second, name)], axis=-1)
        assert np.array_equal(getattr(together, name), both, equal_nan=True), name
    assert_close(first.log2_weight, many.log2_weight, tolerance("chunks", "log2", dtype))
    with np.errstate(divide="ignore"):
        exact = [np.log2(np.linalg.norm(weight.astype(np.longdouble))) for weight in weights]
    assert_close(first.log2_weight, np.array(exact, float), tolerance("chunks", "log2", dtype))
