"""Spectra and Lyapunov exponents of recurrent networks: mpmath, a QR loop in NumPy, closed forms, known answers."""

import copy
import json
import pickle
from pathlib import Path

import numpy as np
import pytest
import recurrent_reference as rr
from mpmath import mp
from portable_cases import build_net
from recurrent_cases import CELLS, network
from tolerances import FLOAT32, FLOAT64, assert_close, tolerance

import gradtrace as gt

ANSWERS = {a["id"]: a for a in json.loads(Path(__file__).with_name("known_answers.json").read_text())["answers"]}
BITS, LOOP = tolerance("spectrum", "log2"), tolerance("lyapunov", "QR loop")


def states_of(net, h, c):
    """Rows (B, size): h of every layer, in an LSTM c behind it."""
    return np.concatenate([p for pair in zip(h, c, strict=True) for p in pair[: 1 + (net.cell == "lstm")]], axis=1)


def jacobians(net, x, h, c):
    """Of every step in the one before, by the complex step: a batch with one nudged number each."""
    size = states_of(net, h, c).shape[1]
    steps = []
    for x_t in x:
        nudged_h, nudged_c, place = [], [], 0
        for k in range(len(h)):
            for to, state in ((nudged_h, h[k]), (nudged_c, c[k])):
                rows = np.repeat(state, size, axis=0).astype(complex)
                if to is nudged_h or net.cell == "lstm":
                    rows[place + np.arange(rows.shape[1]), np.arange(rows.shape[1])] += 1e-30j
                    place += rows.shape[1]
                to.append(rows)
        runs, _ = rr.run_layers(net, np.repeat(x_t[None, None], size, axis=1), nudged_h, nudged_c)
        after_h, after_c = [run.h[1] for run in runs], [run.c[1] for run in runs]
        steps.append(states_of(net, after_h, after_c).imag.T / 1e-30)
        h, c = [a.real[:1] for a in after_h], [a.real[:1] for a in after_c]
    return steps


def cases(cell, layers, steps, units=5, seed=0):
    rng = np.random.default_rng(seed)
    net = network(rng, cell, 3, units, layers, False, dtype=FLOAT64)
    x, (h, c) = rng.standard_normal((steps, 2, 3)), rng.standard_normal((2, layers, 2, units))
    return net, x, h, c


@pytest.mark.parametrize("layers", [1, 2])
@pytest.mark.parametrize("cell", CELLS)
def test_spectra_are_those_of_mpmath(cell, layers):
    net, x, h, c = cases(cell, layers, 12)
    given = {"h0": h} | ({"c0": c} if cell == "lstm" else {})
    got = build_net(net).spectrum(x, steps=(2, 12), **given)
    assert (got.along, got.span) == ("steps", (2, 12))
    for sample in range(2):
        steps = jacobians(net, x[:, sample], h[:, sample : sample + 1], c[:, sample : sample + 1])
        with mp.workdps(150):
            product = mp.eye(len(steps[0]))
            for step in steps[2:]:
                product = mp.matrix(step.tolist()) * product
            exact = np.array([float(mp.log(s, 2)) if s else -np.inf for s in mp.svd_r(product, compute_uv=False)])
        on = exact > -300
        assert np.isneginf(got.log2[sample]).sum() == (~on).sum()
        assert_close(got.log2[sample][on], exact[on], BITS)


@pytest.mark.parametrize("layers", [1, 2])
@pytest.mark.parametrize("cell", ["lstm", "gru", "rnn"])
def test_exponents_are_those_of_a_qr_loop(cell, layers):
    net, x, h, c = cases(cell, layers, 100)
    given = {"h0": h} | ({"c0": c} if cell == "lstm" else {})
    got = build_net(net).lyapunov(x, **given)
    steps = jacobians(net, x[:, 1], h[:, 1:], c[:, 1:])
    q, total = np.eye(len(steps[0])), []
    for step in steps:
        q, r = np.linalg.qr(step @ q)
        total.append(np.log2(np.abs(np.diag(r))))
    total = np.array(total)[:, np.argsort(-np.mean(total[10:], axis=0), kind="stable")]
    assert_close(got.exponents[1], np.mean(total[10:], axis=0), LOOP)
    assert np.diff(got.course_steps).tolist() == [5, 4] * 9 + [5]
    assert_close(got.course[9, 1], np.mean(total[10 : got.course_steps[9]], axis=0), LOOP)
    assert np.array_equal(got.course[-1], got.exponents)
    few = build_net(net).lyapunov(x, 2, **given)
    assert_close(few.exponents, got.exponents[:, :2], LOOP)
    assert np.isnan(got.standard_errors).all()


def relu_steps(net, x, h):
    """Jacobians of one sample's steps."""
    for x_t in x:
        z = net.weight_ih[0] @ x_t + net.weight_hh[0] @ h
        h = np.maximum(z, 0)
        yield (z > 0)[:, None] * net.weight_hh[0]


@pytest.mark.parametrize("units", [3, 24, 70])
def test_units_that_are_off_leave_as_many_infinities_and_nothing_else(isa, units):
    """The rank falls to the fewest units that were on at a step; the directions before are what they are without."""
    rng = np.random.default_rng(units)
    net = gt.RNN(
        rng.standard_normal((units, 2)), 1.4 * rng.standard_normal((units, units)) / units**0.5, activation="relu"
    )
    x = rng.standard_normal((80, 2, 2))
    got = net.lyapunov(x).exponents
    for sample in range(2):
        q, total, fewest = np.eye(units), [], units
        for step in relu_steps(net, x[:, sample], np.zeros(units)):
            fewest = min(fewest, np.count_nonzero(step.any(axis=1)))
            q, r = np.linalg.qr(step @ q[:, :fewest])
            total.append(np.log2(np.abs(np.diag(r))))
        assert np.isneginf(got[sample]).sum() == units - fewest > 0
        exact = np.sort(np.mean([row[:fewest] for row in total[8:]], axis=0))[::-1]
        assert_close(got[sample, :fewest], exact, LOOP)


def test_many_units_are_orthogonalised_every_few_steps(isa):
    """As good as at every step, also where slopes are very different, or a step is far from all others."""
    rng = np.random.default_rng(0)
    x = rng.standard_normal((120, 1, 2))
    x[60] *= 40
    for gain, units in ((0.8, 40), (3.0, 17), (0.0, 5)):
        weights = rng.standard_normal((units, 2)), gain * rng.standard_normal((units, units)) / units**0.5
        h, q, total = np.zeros(units), np.eye(units), []
        for x_t in x[:, 0]:
            z = weights[0] @ x_t + weights[1] @ h
            h = np.tanh(z)
            image = weights[1] @ q / np.cosh(z)[:, None] ** 2
            order = np.argsort(-abs(image).max(axis=1))  # else small rows lose their digits
            sorted_q, r = np.linalg.qr(image[order])
            q = sorted_q[np.argsort(order)]
            with np.errstate(divide="ignore"):
                total.append(np.log2(np.abs(np.diag(r))))
        got = gt.RNN(*weights).lyapunov(x)
        exact = np.sort(np.mean(total[12:], axis=0))[::-1] if gain else np.full(5, -np.inf)
        assert_close(got.exponents[0], exact, LOOP)


def test_closed_forms():
    """A diagonal matrix at rest, a relu network that is on, and an LSTM that only forgets."""
    diagonal = np.array([0.25, 0.9, -0.5])
    rest = gt.RNN(np.zeros((3, 1)), np.diag(diagonal)).lyapunov(np.zeros((2000, 1, 1)))
    assert_close(rest.exponents[0], np.log2([0.9, 0.5, 0.25]), LOOP)
    assert_close(rest.standard_errors, np.zeros((1, 3)), LOOP)
    assert rest.dimension.tolist() == rest.entropy.tolist() == [0]
    turn = np.eye(4)[[1, 2, 3, 0]]
    on = gt.RNN(np.zeros((4, 1)), turn, bias_ih=np.full(4, 50.0), activation="relu").lyapunov(np.zeros((3, 1, 1)))
    assert_close(on.exponents, np.zeros((1, 4)), LOOP)
    bias = np.concatenate([np.zeros(2), [1.0, 3.0], np.zeros(4)])
    lstm = gt.LSTM(np.ones((8, 1)), np.zeros((8, 2)), bias_ih=bias)
    got, lasting = lstm.lyapunov(np.zeros((50, 1, 1))), -np.log2(1 + np.exp([-3.0, -1.0]))
    assert_close(got.exponents[0], [*lasting, -np.inf, -np.inf], LOOP)  # what h was is lost at once
    assert_close(lstm.lyapunov(np.zeros((50, 1, 1)), k=1).exponents[0], lasting[:1], LOOP)
    assert got.largest[0] == got.exponents[0, 0]
    assert lstm.spectrum(np.zeros((50, 1, 1))).zeros.tolist() == [2]


@pytest.mark.parametrize("diagonal", [[0.1, 0.5, 0.9], [1.2, 0.1, 1.5, 0.7]])
def test_the_largest_come_first_also_where_units_do_not_mix(diagonal):
    """A relu network that is on: its Jacobian is the diagonal matrix, at every step."""
    units = len(diagonal)
    net = gt.RNN(np.zeros((units, 1)), np.diag(diagonal), activation="relu", bias_ih=np.ones(units))
    exact = np.sort(np.log2(diagonal))[::-1]
    x = np.zeros((300, 1, 1))
    for k in range(1, units + 1):
        got = net.lyapunov(x, k=k)
        assert_close(got.exponents[0], exact[:k], LOOP)
        assert_close(got.course[:, 0], np.tile(exact[:k], (len(got.course), 1)), LOOP)
    whole = net.lyapunov(x)
    assert_close(whole.entropy[0], exact[exact > 0].sum(), LOOP)
    assert np.array_equal(net.lyapunov(x, k=1).entropy, [0.0 if exact[0] < 0 else np.nan], equal_nan=True)


def test_a_state_that_leaves_float64_has_no_exponents():
    """NaN from there on, not -inf; the course before is that of fewer steps."""
    rng = np.random.default_rng(0)
    weight = 4 * rng.standard_normal((32, 32)) / 32**0.5
    net = gt.RNN(np.ones((32, 1)), weight, activation="relu")
    for k in (None, 2):
        got = net.lyapunov(np.ones((3000, 1, 1)), k=k)
        assert np.isnan(got.exponents).all()
        assert np.isnan([got.dimension, got.entropy, got.largest]).all()
        unknown = np.isnan(got.course).all(axis=(1, 2))
        assert 0 < unknown.argmax() < len(unknown)
        assert unknown[unknown.argmax() :].all()
        assert np.isfinite(net.lyapunov(np.ones((300, 1, 1)), k=k).largest).all()
    weight[0, 0] = np.nan
    broken = gt.RNN(np.ones((32, 1)), weight).lyapunov(np.ones((30, 2, 1)), k=3)
    assert np.isnan(broken.exponents).all()
    assert np.isnan([broken.dimension, broken.entropy]).all()


def test_dimension_and_entropy():
    figures = {"standard_errors": np.full((2, 3), np.nan), "course": np.zeros((1, 2, 3)), "steps": 9}
    figures |= {"course_steps": np.array([9])}
    rows = np.array([[0.5, -0.25, -1.0], [1.0, 0.5, 0.25]])
    whole, part = (gt.Lyapunov(exponents=rows.copy(), size=size, **figures) for size in (3, 4))
    assert whole.dimension.tolist() == [2.25, 3.0]
    assert whole.entropy.tolist() == [0.5, 1.75]
    assert part.dimension[0] == 2.25
    assert np.isnan([part.dimension[1], part.entropy[1]]).all()
    assert whole.largest.tolist() == [0.5, 1.0]


def left_alone(rng, units, gain, steps, k=None):
    """Exponents of a random tanh network without inputs."""
    net = gt.RNN(np.zeros((units, 1)), gain * rng.standard_normal((units, units)) / np.sqrt(units))
    return net.lyapunov(np.zeros((steps, 1, 1)), k, h0=rng.standard_normal((1, units))).exponents[0] * np.log(2)


@pytest.mark.parametrize("name", ["lyap.g=1.5", "lyap.g=2.0", "lyap.g=5.0"])
def test_the_largest_exponent_of_random_networks(name):
    """The answer is of infinitely many units; of 300, some networks are hardly chaotic at g = 1.5."""
    rng, answer = np.random.default_rng(0), ANSWERS[name]
    got = np.mean([left_alone(rng, 800, answer["inputs"]["g"], 600, k=1) for _ in range(2)])
    exact = answer["value"]["lambda1"]
    assert_close(got, exact, tolerance("lyapunov", "largest") * exact)


def test_the_whole_spectrum_of_a_random_network():
    got = left_alone(np.random.default_rng(0), 150, 2.0, 300)
    for name in ("lyap.rank.g=2.x=0.1", "lyap.rank.g=2.x=0.5"):
        rank = round(150 * ANSWERS[name]["inputs"]["x"])
        assert_close(got[rank], ANSWERS[name]["value"], tolerance("lyapunov", "rank"))
    mean = ANSWERS["lyap.g=2.0"]["value"]["mean"]
    assert_close(got.mean(), mean, tolerance("lyapunov", "largest") * abs(mean))


def test_standard_errors_come_with_two_thousand_steps():
    net = gt.RNN.random(2, 6, gain=0.9, seed=1, dtype=FLOAT64)
    x = np.random.default_rng(0).standard_normal((2000, 2, 2))
    whole = net.lyapunov(x, k=2)
    assert (whole.standard_errors > 0).all()
    assert np.isnan(net.lyapunov(x[1:], k=2).standard_errors).all()
    assert whole.course_steps[-1] == 2000
    assert len(whole.course) == 200
    edges = np.concatenate([[0], whole.course_steps[9::10] - 200])
    sums = np.concatenate([[np.zeros((2, 2))], whole.course[9::10] * edges[1:, None, None]])
    blocks = np.diff(sums, axis=0) / np.diff(edges)[:, None, None]
    assert_close(whole.standard_errors, blocks.std(axis=0, ddof=1) / np.sqrt(20), LOOP)


def test_precision_layout_and_threads(threads):
    net = gt.GRU.random(3, 7, seed=2)
    x = np.random.default_rng(0).standard_normal((20, 4, 3)).astype(FLOAT32)
    spectrum, exponents = net.spectrum(x), net.lyapunov(x)
    wide = net.astype(FLOAT64)
    assert wide.spectrum(x.astype(FLOAT64)) == spectrum
    assert wide.lyapunov(x.astype(FLOAT64)) == exponents
    gt.set_num_threads(2)
    first = net.replaced(batch_first=True)
    turned = np.ascontiguousarray(x.swapaxes(0, 1))
    assert first.spectrum(turned) == spectrum
    assert first.lyapunov(turned) == exponents


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"k": 6}, ValueError, "k: expected at most 5, got 6"),
        ({"k": "all"}, TypeError, "k: expected an integer, got str"),
        ({"h0": np.zeros((1, 4))}, ValueError, "h0: expected shape"),
        ({"c0": np.zeros((1, 5))}, ValueError, "c0: expected None"),
        ({"x": np.zeros((4, 2))}, ValueError, "x: expected shape"),
        ({"x": np.zeros((4, 1, 2), FLOAT32)}, TypeError, "x: expected dtype float64"),
    ],
)  # fmt: skip
def test_bad_arguments_are_named(arguments, error, message):
    net = gt.RNN.random(2, 5, dtype=FLOAT64)
    given = {"x": np.zeros((4, 1, 2))} | arguments
    for method in (net.spectrum, net.lyapunov):
        with pytest.raises(error) as caught:
            method(**given)
        assert str(caught.value).startswith(message)
    with pytest.raises(ValueError, match=r"^steps: expected a pair of integers, 0 <= first < last <= 4"):
        net.spectrum(np.zeros((4, 1, 2)), steps=(3, 5))
    both = gt.RNN.random(2, 5, bidirectional=True)
    for method in (both.spectrum, both.lyapunov):
        with pytest.raises(ValueError, match=r"^bidirectional: expected a network of one direction"):
            method(np.zeros((4, 1, 2), FLOAT32))


def test_the_result_reads_well():
    got = gt.RNN.random(2, 5, seed=1).lyapunov(np.ones((30, 1, 2), FLOAT32))
    assert repr(got).startswith("Lyapunov(steps=30, samples=1, exponents=5; largest ")
    assert json.loads(json.dumps(got.to_dict(), allow_nan=False))["exponents"] == got.exponents.tolist()
    assert pickle.loads(pickle.dumps(got)) == got == copy.deepcopy(got)
    assert got != gt.RNN.random(2, 5, seed=2).lyapunov(np.ones((30, 1, 2), FLOAT32))
