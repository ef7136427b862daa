"""Range and edges of recurrent traces: times and gates that no float holds, zeros that are zeros, no numbers at all."""

from functools import cache
from types import SimpleNamespace

import numpy as np
import pytest
import recurrent_reference as rr
import wide_reference
from portable_cases import Layer, Net, build_net, converted_net, recurrent_case, recurrent_net
from reference import to_mpmath
from roundoff import recurrent_rounding
from tolerances import RECURRENT, assert_close, assert_recurrent, tolerance

import gradtrace as gt

CELLS = ["lstm", "gru", "rnn"]


def case(cell, dtype, seed=0, T=6, B=2, I=2, H=3, **options):  # noqa: E741
    """Network, x, u, h0, c0, v of the dtype; the cell "relu" is an RNN."""
    rng = np.random.default_rng(seed)
    net = recurrent_net(rng, "rnn" if cell == "relu" else cell, I, H, dtype=dtype, **options)
    net = net._replace(activation="relu" if cell == "relu" else "tanh")
    shapes = (T, B, I), (T, B, H), (1, B, H), (1, B, H), (1, B, H)
    return net, *(rng.standard_normal(shape).astype(dtype) for shape in shapes)


def traced(net, x, u, h0=None, c0=None, v=None, **options):
    options |= {"c0": c0, "cotangent_c": v} if net.cell == "lstm" else {}
    return build_net(net).trace(x, h0=h0, cotangent=u, **options)


def oracle(net, *given, exactly=np.float64):
    return rr.trace(converted_net(net, exactly), *map(exactly, given))


def shift(net, gate, bias):
    """Every bias of one gate moved."""
    for layer in net.layers:
        width = len(layer.weight_hh[0])
        layer.bias_ih[gate * width : (gate + 1) * width] += bias


# --- time ---


@cache
def nine_hundred_steps(dtype):
    """The known answer's network, rounded, and the oracle's trace."""
    net, *given = recurrent_case("lstm", 900, 1, 2, 3, 4, gain=0.5, last_only=True)
    net, (x, h0, c0, u, v) = converted_net(net, lambda p: p.astype(dtype)), [p.astype(dtype) for p in given]
    return net, (x, u, h0, c0, v), oracle(net, x, u, h0, c0, v)


def test_nine_hundred_steps_end_below_float64(dtype, isa):
    """2^-1119, where float64 itself reads 0."""
    net, given, exact = nine_hundred_steps(dtype)
    got = traced(net, *given)
    assert_recurrent(got, exact, dtype, limit=3 * tolerance("recurrent long", "log2", dtype))
    assert got.log2_dc[0, 0, 0] == pytest.approx(-1119.275, abs=tolerance("recurrent long", "stated"))


@pytest.mark.parametrize("cell", ["LSTM", "GRU", "RNN"])
def test_twenty_thousand_steps(cell):
    net = getattr(gt, cell).random(2, 3, seed=2, **({"forget_bias": -3.0} if cell == "LSTM" else {}))
    x = np.random.default_rng(0).standard_normal((20_000, 2, 2)).astype("float32")
    got = net.trace(x)
    exact = type(net)(*([p.astype(float) for p in ps] for ps in (net.weight_ih, net.weight_hh, net.bias_ih,
                        net.bias_hh))).trace(x.astype(float), cotangent=at_end(net, x).astype(float))  # fmt: skip
    for name in RECURRENT[got.cell]:  # h0 = 0 adds nothing, the last step has nothing gated
        figure = getattr(got, name)[:, 1:-1] if name.endswith(("_step", "_gated")) else getattr(got, name)
        assert np.all(np.isfinite(figure)), name
    assert np.all(got.log2_dh[0, 0] < -5000)
    assert_close(got.log2_dh, exact.log2_dh, tolerance("recurrent long", "log2", "float32") * 20_000 / 300)


def at_end(net, x):
    """The default cotangent."""
    return net.trace(x[:1].copy(), keep=("dh",)).dh[0, 1].to_numpy()


@pytest.mark.parametrize("bias", [-500.0, -2000.0, 0.0, 20.0])
@pytest.mark.parametrize("cell", ["lstm", "gru"])
def test_gates_that_nothing_drives_have_a_closed_form(cell, bias, dtype, isa):
    """All weights zero, T = 300: dL/dc_0 = sigma(b)^T v, and a GRU's dL/dh_0 likewise."""
    steps, rows = 300, {"lstm": 4, "gru": 3}[cell] * 3
    net = Net(cell, [Layer(np.zeros((rows, 2), dtype), np.zeros((rows, 3), dtype), np.zeros(rows, dtype))])
    shift(net, 1, bias)
    x, v = np.ones((steps, 2, 2), dtype), np.array([[[1, 0, 0], [0, 0.5, 0]]], dtype)
    if cell == "lstm":
        got = traced(net, x, 0 * v[0], v=v)
        whole, direct = got.log2_dc, got.log2_dc_direct
    else:
        got = traced(net, x, v[0].copy())
        whole, direct = got.log2_dh, got.log2_dh_direct
    keep = -np.logaddexp(0, -bias) / np.log(2)
    left = np.arange(steps, -1, -1)[None, :, None] * keep
    limit = 32 * np.finfo(dtype).eps * (1 - left) + tolerance("recurrent", "log2", dtype)  # 300 sums of logarithms
    assert_close(whole, left + np.array([0, -1]), limit)
    assert_close(direct, whole, limit)
    assert_close(got.log2_retention, np.repeat(left, 2, axis=2), limit)
    assert_close(got.forget_half_life, np.array([-1 / keep]), tolerance("recurrent", "entries", "float32") / abs(keep))
    assert np.all((got.log2_dc_gated if cell == "lstm" else got.log2_dh_gated) == -np.inf)
    if cell == "lstm":
        assert np.all(got.log2_dh == -np.inf)
    for name in ("log2_grad_weight_ih", "log2_grad_weight_hh", "log2_dx"):
        assert not np.any(np.isnan(getattr(got, name)))


@pytest.mark.parametrize("cell", ["lstm", "gru"])
def test_a_gate_that_never_lets_go_has_an_infinite_half_life(cell, dtype, isa):
    net, *given = case(cell, dtype)
    shift(net, 1, 2000)
    got = traced(net, *given)
    assert np.all(got.forget_half_life == np.inf)
    assert np.all(got.forget_half_life_unit == np.inf)
    assert np.all(got.log2_retention == 0)


# --- gates ---


@pytest.mark.parametrize("bias", [-500, -2000, 2000])
@pytest.mark.parametrize("cell", ["lstm", "gru"])
def test_shut_and_open_forget_gates(cell, bias, dtype, isa):
    """sigma(-2000) = 2^-2885 in a network that uses everything else, against sixty digits."""
    net, *given = case(cell, dtype)
    shift(net, 1, bias)
    limit = tolerance("recurrent", "log2", dtype) + 6 * abs(bias) * np.finfo(dtype).eps  # of the preactivation itself
    got, exact = traced(net, *given), oracle(net, *given, exactly=to_mpmath)
    assert_recurrent(got, exact, dtype, limit, [n for n in RECURRENT[cell] if not n.startswith("forget")])
    if bias < 0:
        log2 = got.log2_dc_direct if cell == "lstm" else got.log2_dh_direct
        assert np.all(log2[0, 0] < bias)


@pytest.mark.parametrize("bias", [-150, -2000])
def test_shut_output_gates_part_dh_from_dc(bias, dtype, isa):
    """dc of the end comes from v alone; what dh adds, and what goes through the gates, is 2^-200 of it and less."""
    net, *given = case("lstm", dtype)
    shift(net, 3, bias)
    limit = tolerance("recurrent", "log2", dtype) + 6 * abs(bias) * np.finfo(dtype).eps
    got, exact = traced(net, *given), oracle(net, *given, exactly=to_mpmath)
    assert_recurrent(got, exact, dtype, limit)
    assert np.all(got.log2_dc_gated < got.log2_dc - 200)


def test_states_behind_a_shut_output_gate_still_count(dtype, isa):
    net, *given = case("lstm", dtype)
    shift(net, 3, -150 if dtype == "float32" else -2000)
    got = traced(net, *given)
    assert np.all(np.isfinite(got.log2_grad_weight_hh_step))


def test_states_behind_gates_that_are_all_shut_still_count(dtype, isa):
    net, *given = case("lstm", dtype)
    for gate in (0, 1, 3):
        shift(net, gate, -2000)
    limit = tolerance("recurrent", "log2", dtype) + 6 * 3 * 2000 * np.finfo(dtype).eps  # of the preactivations
    names = [n for n in RECURRENT["lstm"] if not n.startswith("forget")]
    assert_recurrent(traced(net, *given), oracle(net, *given, exactly=to_mpmath), dtype, limit, names)


@pytest.mark.parametrize("cell", [*CELLS, "relu"])
def test_weights_a_hundred_times_too_large(cell, dtype, isa):
    """Gates of |z| in the hundreds; the limit is what rounding h and the weights does to the true figures."""
    net, *given = case(cell, dtype, seed=3, H=16, gain=100.0)
    got, exact = traced(net, *given), oracle(net, *given)
    limit = recurrent_rounding(converted_net(net, np.float64), *(p.astype(float) for p in given[:2]), dtype,
                               *(p.astype(float) for p in given[2:]))  # fmt: skip
    assert_recurrent(got, exact, dtype, limit)
    assert cell == "relu" or np.all(np.isfinite(got.log2_dx))


# --- size of weights and rows ---


@pytest.mark.parametrize("cell", [*CELLS, "relu"])
def test_tiny_weights(cell, dtype, isa):
    """1e-30 each: 100 bits a step wherever nothing else carries."""
    net, *given = case(cell, dtype, T=12, bias=None)
    net = converted_net(net, lambda p: p * np.dtype(dtype).type(1e-30))
    last = np.zeros_like(given[1])
    last[-1] = given[1][-1]
    given[1] = last
    got = traced(net, *given)
    assert_recurrent(got, oracle(net, *given), dtype)
    if net.cell == "rnn":
        assert np.all(got.log2_dh[0, 0] < -1150)


def test_huge_weights_of_a_relu_network(dtype, isa):
    """1e30 each: 2^1200 after twelve steps, forward and backward, and nothing but finite figures."""
    net, x, u, h0, *rest = case("relu", dtype, T=12, bias=None)
    net = converted_net(net, lambda p: abs(p) * np.dtype(dtype).type(1e30))
    x, h0 = abs(x), abs(h0)
    got = traced(net, x, u, h0, *rest)
    exact = oracle(net, x, u, h0, *rest, exactly=to_mpmath)
    assert_recurrent(got, exact, dtype)
    assert np.all(got.log2_dh[0, 0] > 1100)
    assert got.first_nonfinite is None


@pytest.mark.parametrize("cell", CELLS)
def test_huge_weights_of_saturating_cells(cell, dtype, isa):
    """sigma'(1e30) is 2^-1.4e30: no exponent of a row holds it, but nothing becomes NaN or infinite."""
    net, *given = case(cell, dtype, bias=None)
    net = converted_net(net, lambda p: p * np.dtype(dtype).type(1e30))
    got, exact = traced(net, *given), oracle(net, *given, exactly=to_mpmath)
    for name in RECURRENT[cell]:
        assert not np.any(np.isnan(getattr(got, name))), name
        assert np.all(getattr(got, name) < 1e29) or name.startswith("forget"), name  # inf: a gate that is 1
    assert got.first_nonfinite is None
    if cell != "rnn":
        assert_close(
            got.log2_retention,
            exact.log2_retention,
            tolerance("recurrent range", "log2") * (1 + abs(exact.log2_retention)),
        )
        assert_close(got.gate_mean, exact.gate_mean, tolerance("recurrent", "statistics", dtype))
    y = build_net(net).forward(given[0])[0]
    assert np.all(np.isfinite(y))


@pytest.mark.parametrize("cell", ["rnn", "relu"])
def test_a_state_below_every_float_is_plain_again_with_the_next_input(cell, dtype, isa):
    """Forty steps without an input take 2^-30 each; then every unit has its own z, not that at the state's exponent."""
    net, x, u, h0, *rest = case(cell, dtype, T=45, gain=1e-9, bias=None)
    net.layers[0].weight_ih[:] *= np.dtype(dtype).type(1e9)
    x[:40] = 0
    got, exact = traced(net, x, u, h0, *rest), oracle(net, x, u, h0, *rest, exactly=to_mpmath)
    assert_recurrent(got, exact, dtype)
    y = build_net(net).forward(x, h0=h0)[0]
    assert_close(y[40:], exact.y[40:].astype(float), tolerance("recurrent", "entries", dtype))
    assert abs(exact.y[40:]).astype(float).max(axis=(1, 2)).min() > 0.1


def test_all_weights_zero(dtype, isa):
    for cell in (*CELLS, "relu"):
        net, *given = case(cell, dtype)
        net = converted_net(net, np.zeros_like)
        got = traced(net, *given)
        assert_recurrent(got, oracle(net, *given), dtype)
        assert np.all(got.log2_dx == -np.inf)
        if net.cell == "rnn":
            assert np.all(got.log2_dh[0, 0] == -np.inf)
            assert np.all(got.weight_gain == -np.inf if cell == "rnn" else np.isnan(got.weight_gain))


def test_a_dead_relu_network_has_gains_of_zero_and_none(dtype, isa):
    net, x, *rest = case("relu", dtype)
    shift(net, 0, -100)
    got = traced(net, x, *rest)
    assert np.all(got.log2_dz == -np.inf)
    assert np.all(got.activation_gain == -np.inf)
    assert np.all(np.isnan(got.weight_gain))
    assert np.all(got.log2_grad_weight_hh == -np.inf)


@pytest.mark.parametrize("cell", ["rnn", "relu"])
def test_explosion_of_the_gradient_alone(cell, dtype, isa):
    """tanh near 0 and relu with no input at all: W^T dz doubles and redoubles, h stays what it is."""
    net, x, u, *_ = case(cell, dtype, T=400, bias=None)
    net = converted_net(net, lambda p: abs(p) * 4)
    given = 1e-30 * abs(x) if cell == "relu" else 0 * x
    u[:-1] = 0
    got, exact = traced(net, given, u), oracle(net, given, u)
    assert_recurrent(got, exact, dtype, 10 * tolerance("recurrent", "log2", dtype), ("log2_dh", "log2_dz", "log2_dx"))
    assert np.all(got.log2_dh[0, 0] > 1050)


def of_samples(trace, axes_of):
    """The figures that have an axis of samples, which is the last."""
    return {name: getattr(trace, name) for name, axes in axes_of.items() if axes.endswith("B")}


@pytest.mark.parametrize("cell", CELLS)
def test_samples_do_not_see_each_other(cell, dtype, isa):
    """Cotangents from 2^-60 to 2^60, inputs small and large, lengths from 1 to T: bit by bit the same in any company.

    Alone it is the same bits only where no matrix unit is: what a batch of one takes, 21 need not (definitions.md:
    which path runs depends on shape).
    """
    rng = np.random.default_rng(7)

    def drawn():
        net, *arrays = case(cell, dtype, T=9, B=21, H=17)
        x, u, h0, c0, v = (np.ascontiguousarray(rng.permutation(p, axis=1)) for p in arrays)
        powers = np.exp2(rng.integers(-60, 60, (1, 21, 1))).astype(dtype)
        x = x * np.exp2(rng.integers(-8, 8, (1, 21, 1))).astype(dtype)
        return net, [x, u * powers, h0, c0, v * powers], rng.integers(1, 10, 21)

    net, parts, lengths = drawn()
    got = of_samples(traced(net, *parts, lengths=lengths), RECURRENT[cell])
    for b in (0, 7, 20):
        one = slice(b, b + 1)
        own = [np.ascontiguousarray(p[:, one]) for p in parts]
        alone = of_samples(traced(net, *own, lengths=lengths[one]), RECURRENT[cell])
        _, others, other_lengths = drawn()
        for company, mine in zip(others, own, strict=True):
            company[:, one] = mine
        other_lengths[b] = lengths[b]
        in_company = of_samples(traced(net, *others, lengths=other_lengths), RECURRENT[cell])
        for name, expected in got.items():
            np.testing.assert_array_equal(in_company[name][..., b], expected[..., b], name)
            if isa.startswith("amx"):
                assert_close(alone[name][..., 0], expected[..., b], tolerance("recurrent", "log2", dtype), name)
            else:
                np.testing.assert_array_equal(alone[name][..., 0], expected[..., b], name)


# --- states that leave their format ---


def test_a_relu_network_bears_stretches_without_input(dtype, isa):
    """An impulse, then zeros: h halves at every step, and dL/dh on its way back, to 2^-900."""
    steps, half = 900, np.eye(3, dtype=dtype) / 2
    net = gt.RNN(np.ones((3, 2), dtype), half, activation="relu")
    x = np.zeros((steps, 1, 2), dtype)
    x[0] = 1
    got = net.trace(x, cotangent=np.ones((1, 3), dtype), keep=("h",))
    assert_close(
        got.log2_dh[0, 1:, 0], np.log2(3) / 2 - np.arange(steps - 1, -1, -1), tolerance("recurrent range", "log2")
    )
    assert_close(
        got.h.log2_norm(-1)[0, 1:, 0], 1 + np.log2(3) / 2 - np.arange(steps), tolerance("recurrent range", "log2")
    )
    assert_close(
        got.log2_grad_weight_hh_step[0, 1:],
        np.full(steps - 1, 1 + np.log2(3) - (steps - 2)),
        tolerance("recurrent range", "log2"),
    )
    assert got.first_nonfinite is None
    assert "overflow" not in got.diagnose().kinds
    assert np.all(np.isfinite(net.forward(x)[0]))
    assert np.all(np.isfinite(net.influence(x[:50]).log2_dh[np.tril_indices(51)]))


@pytest.mark.parametrize("power", ["x", "weight_ih", "h0"])
def test_what_is_subnormal_counts(power, dtype, isa):
    """A ReLU network without biases is homogeneous: 2^-k of its input is 2^-k of its states, to the last bit."""
    tiny = np.array(2.0, dtype) ** (-140 if dtype == "float32" else -1060)
    net, x, u, h0, *_ = case("relu", dtype, bias=None)
    x, h0, weight = x * (power != "h0"), h0 * (power == "h0"), net.layers[0].weight_ih
    x, h0, weight = (np.round(8 * a) / 8 for a in (x, h0, weight))  # few bits: their products with `tiny` are exact
    one, other = (
        gt.RNN((weight * (by if power == "weight_ih" else 1)).astype(dtype), net.layers[0].weight_hh, activation="relu")
        .trace((x * (by if power == "x" else 1)).astype(dtype), h0=(h0 * (by if power == "h0" else 1)).astype(dtype),
               cotangent=u)
        for by in (1, tiny)
    )  # fmt: skip
    assert_close(
        other.log2_grad_weight_hh_step,
        one.log2_grad_weight_hh_step + np.log2(tiny),
        tolerance("recurrent range", "power of two"),
    )
    assert_close(
        other.log2_grad_weight_hh, one.log2_grad_weight_hh + np.log2(tiny), tolerance("recurrent range", "power of two")
    )
    moved = np.log2(tiny) if power == "x" else 0
    assert_close(
        other.log2_grad_weight_ih_step,
        one.log2_grad_weight_ih_step + moved,
        tolerance("recurrent range", "power of two"),
    )
    assert_close(
        other.log2_dx,
        one.log2_dx + (np.log2(tiny) if power == "weight_ih" else 0),
        tolerance("recurrent range", "power of two"),
    )


def test_kept_states_behind_shut_gates_carry_exponents(dtype, isa):
    """No weights, biases alone: c_1 = sigma(-2000) tanh(1), h_1 = sigma(-2000) c_1, and the states after them."""
    shut, log2_tanh = -2000 / np.log(2), np.log2(np.tanh(1))
    bias = np.repeat(np.array([-2000, 0, 1, -2000], dtype), 3)
    net = gt.LSTM(np.zeros((12, 2), dtype), np.zeros((12, 3), dtype), bias, np.zeros(12, dtype))
    got = net.trace(np.zeros((4, 2, 2), dtype), keep=("h", "c", "gates"))
    c = np.array([shut + log2_tanh + np.log2(2 - 0.5**t) for t in range(4)])  # half of it stays
    limit = 4 * 2885 * np.finfo(dtype).eps + 1e-9
    assert_close(got.c.log2_norm(-1)[0, 1:, 0], c + np.log2(3) / 2, limit)
    assert_close(got.h.log2_norm(-1)[0, 1:, 0], c + shut + np.log2(3) / 2, limit)
    assert np.all(got.c.log2_norm(-1)[0, 0] == -np.inf)
    bias = np.repeat(np.array([-2000, -2000, 0, -2000], dtype), 3)
    net = gt.LSTM(np.zeros((12, 2), dtype), np.zeros((12, 3), dtype), bias, np.zeros(12, dtype))
    gates = net.trace(np.zeros((1, 1, 2), dtype), keep=("gates",)).gates
    assert_close(gates.log2_norm(-1)[0], np.full((1, 1), shut + np.log2(9) / 2), limit)


@pytest.mark.parametrize("cell", ["lstm", "gru"])
def test_influence_behind_shut_gates(cell, dtype, isa):
    """All gates but the candidate's: h is 2^-2885, and so is what it does to the states after it."""
    net, x, u, h0, c0, _ = case(cell, dtype, T=4)
    for gate in {"lstm": (0, 1, 3), "gru": (0, 1)}[cell]:
        shift(net, gate, -2000)
    options = {"c0": c0} if cell == "lstm" else {}
    got = build_net(net).influence(x, h0=h0, cotangent=u[0], **options)
    exact = rr.influence(converted_net(net, to_mpmath), 0, *map(to_mpmath, (x, u[0], h0, c0)))
    limit = tolerance("recurrent", "log2", dtype) + 4 * 3 * 2000 * np.finfo(dtype).eps
    assert_close(got.log2_dh, exact[0], limit)
    if cell == "lstm":
        assert_close(got.log2_dc, exact[1], limit)


def test_a_saturated_gru_keeps_its_digits(dtype, isa):
    """h and n both round to 1: their difference is that of what each leaves."""
    rng = np.random.default_rng(0)
    for _ in range(10):
        net = recurrent_net(rng, "gru", 2, 3, gain=100.0, dtype=dtype)
        x, u = (rng.standard_normal((6, 2, n)).astype(dtype) for n in (2, 3))
        layer = SimpleNamespace(**{name: p[None] for name, p in net.layers[0]._asdict().items()})
        given = [a[None] for a in (x, u, *np.zeros((3, 1, 2, 3)))]
        exact, *rough = (wide_reference.trace("gru", [layer], *given, np.full(2, 6), noise=noise, seed=seed)
                         for seed, noise in enumerate((0, 2.0**-24, 2.0**-24)))  # fmt: skip
        got = traced(net, x, u)
        unit = 1 if dtype == "float32" else 2.0**-29
        for name, want in exact.items():
            with np.errstate(invalid="ignore"):
                change = max(np.nanmax(np.where(want == r[name], 0, abs(r[name] - want))) for r in rough) * unit
            limit = tolerance("rounding", "safety", dtype) * change + tolerance("recurrent", "log2", dtype)
            assert_close(getattr(got, name), want[0], limit, name)


# --- no numbers ---


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("cell", CELLS)
def test_weights_that_are_no_numbers_are_reported(cell, value, dtype, isa):
    net, *given = case(cell, dtype)
    net.layers[0].weight_hh[:, 0] = value
    given[2][:] = 0  # 0 * inf
    got = traced(net, *given)
    assert got.first_nonfinite == 1
    for name in ("log2_dh", "log2_dx"):
        assert np.all(np.isnan(getattr(got, name)[..., 0, :])), name
    for name in ("log2_grad_weight_ih", "log2_grad_weight_hh"):
        assert np.all(np.isnan(getattr(got, name))), name
    again = traced(converted_net(net, np.nan_to_num), *given)
    assert again.first_nonfinite is None


@pytest.mark.parametrize("cell", CELLS)
def test_a_single_weight_that_is_no_number(cell, dtype, isa):
    """Wherever it stands in the second layer, dL/dx and the states before are reached."""
    for at in (0, -1):
        rng = np.random.default_rng(0)
        net = recurrent_net(rng, cell, 2, 3, 2, dtype=dtype)
        net.layers[1].weight_hh.ravel()[at] = np.nan
        got = build_net(net).trace(rng.standard_normal((4, 2, 2)).astype(dtype))
        assert got.first_nonfinite == 1
        assert np.all(np.isnan(got.log2_dh[:, 0]))
        assert np.all(np.isnan(got.log2_dx))


def test_a_network_that_is_no_number_passes_its_readout(dtype):
    net, x, *_ = case("lstm", dtype)
    net.layers[0].weight_ih[0, 0] = np.nan
    readout = gt.Stack([np.ones((2, 3), dtype)], activation="linear")
    for at, shape in (("last", (2,)), ("all", (6, 2))):
        got = build_net(net).trace(x, readout=readout, target=np.zeros(shape, np.int64), loss="cross_entropy", at=at)
        assert got.first_nonfinite == 1
        assert np.isnan(got.loss)


@pytest.mark.parametrize("cell", CELLS)
def test_what_cancels_exactly_leaves_the_smallest_sample(cell, isa):
    """A bias gradient's squares, 2^-1400, are below float64; the gradient is the third sample's, to the bit."""
    net, x, u, *_ = case(cell, "float64", B=3)
    x[:, 1], u[:, 1] = x[:, 0], -u[:, 0]
    u[:, 2] *= 2.0**-700
    got, alone = traced(net, x, u), traced(net, x[:, 2:].copy(), u[:, 2:].copy())
    name = "log2_grad_bias_hh_step" if cell == "gru" else "log2_grad_bias_step"
    assert np.all(getattr(alone, name) < -600)
    assert_close(getattr(got, name), getattr(alone, name), tolerance("recurrent", "log2", "float64"), name)


@pytest.mark.parametrize("at", ["last", "all"])
def test_a_readout_sends_back_gradients_beyond_2_to_the_2_to_the_63(dtype, at):
    """A relu doubles its state at every step; logits h and -h give dL/dh = -2 exp(-2 h) where the label is right."""
    steps = 90
    one = np.ones((1, 1), dtype)
    net = gt.RNN(one, 2 * one, activation="relu")
    readout = gt.Stack([np.array([[1], [-1]], dtype)])
    x = np.zeros((steps, 1, 1), dtype)
    x[0] = 1
    target = np.zeros((steps, 1) if at == "all" else 1, np.int64)
    trace = net.trace(x, readout=readout, target=target, loss="cross_entropy", at=at)
    h = 2.0 ** np.arange(steps)  # after one step and so on
    sent = 1 - 2 * h / np.log(2)
    if at == "last":  # later ones only double
        sent = sent[-1] + np.arange(steps)[::-1]
    got = trace.log2_dh[0, 1:, 0] + (np.log2(steps) if at == "all" else 0)
    assert np.isfinite(got).all()
    assert_close(got[70:] / sent[70:], np.ones(20), 8 * tolerance("recomputed", "one rounding", dtype))
