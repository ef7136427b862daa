"""What else a trace answers: what a format loses, how far the gradient reaches, before and after; files."""

import io
import zipfile

import numpy as np
import pytest
from tolerances import tolerance

import gradtrace as gt
from gradtrace.analysis.thresholds import FORMATS
from gradtrace.analysis.underflow import lost_in

RNG = np.random.default_rng(0)


def deep_sigmoid(hidden=100, **options):
    x = np.random.default_rng(0).standard_normal((20, 64)).astype("float32")
    return gt.Stack.random([64] * (hidden + 1) + [10], "sigmoid", seed=0).trace(x, **options)


def an_lstm(steps=60, **options):
    x = np.random.default_rng(0).standard_normal((steps, 4, 3)).astype("float32")
    return gt.LSTM.random(3, 8, num_layers=2, seed=0, **options).trace(x)


# --- underflow


@pytest.mark.parametrize(
    ("name", "scalar"), [("float32", np.float32), ("float16", np.float16), ("float64", np.float64)]
)
def test_formats_end_where_numpy_says(name, scalar):
    ends, info = FORMATS[name], np.finfo(scalar)
    assert 2.0**ends.normal == info.tiny
    assert scalar(np.ldexp(1.0, int(ends.zero) + 1)) == info.smallest_subnormal
    if scalar is not np.float64:
        assert scalar(2.0**ends.zero) == 0
        assert scalar(2.0**ends.zero * 1.01) > 0
        with np.errstate(over="ignore"):
            assert np.isinf(scalar(2.0**ends.overflow * 1.0001))
            assert np.isfinite(scalar(2.0**ends.overflow * 0.999))


def test_underflow_against_numpy_s_own_rounding():
    trace = deep_sigmoid(keep=("deltas",))
    for name, dtype in (("float32", np.float32), ("float16", np.float16)):
        lost = trace.underflow(name)
        rounded = [delta.to_numpy(np.float64).astype(dtype) for delta in trace.deltas]
        zero = np.array([(row == 0).all(axis=1) for row in rounded])
        small = np.array([(np.abs(row) < np.finfo(dtype).tiny).all(axis=1) for row in rounded])
        assert lost.share_zero == zero.mean()
        assert lost.share_subnormal == (small & ~zero).mean()
        assert lost.first_zero == np.flatnonzero(zero.mean(axis=1) >= 0.5)[-1]
        assert lost.first_subnormal == np.flatnonzero(small.mean(axis=1) >= 0.5)[-1]
    assert trace.underflow("float64").share_zero == 0
    assert str(trace.underflow("float64")) == "float64 loses nothing."


def test_loss_scale_keeps_everything():
    trace = deep_sigmoid(hidden=8)
    lost = trace.underflow("float16")
    assert lost.log2_loss_scale > 0
    assert lost_in("float16", trace.log2_delta_max + lost.log2_loss_scale, "layer").share_subnormal == 0
    assert lost_in("float16", trace.log2_delta_max + lost.log2_loss_scale - 1, "layer").share_subnormal > 0


def test_no_loss_scale_keeps_more_than_the_format_spans():
    trace = deep_sigmoid()
    lost = trace.underflow("float16")
    lifted = lost_in("float16", trace.log2_delta_max + lost.log2_loss_scale, "layer")
    assert lifted.share_overflow > 0
    assert not lost.loss_scale_fits
    assert "no scale of the loss keeps everything" in " ".join(str(lost).split())
    fitting = deep_sigmoid(hidden=8).underflow("float16")
    assert fitting.loss_scale_fits
    assert f"a loss scaled by 2^{fitting.log2_loss_scale:.0f} would keep everything" in " ".join(str(fitting).split())


def test_underflow_of_a_recurrent_network():
    trace = an_lstm(steps=300, forget_bias=-2.0)
    lost = trace.underflow("float32", layer=1)
    assert lost.axis == "state"
    assert 0 < lost.first_zero < lost.first_subnormal < 300
    assert "from state" in str(lost)


@pytest.mark.parametrize(
    ("log2_size", "said"),
    [
        (
            [[-30, -30], [-20, -20], [-20, -3], [0, 17]],
            "subnormal from layer 2 on (38% of all); zero from layer 0 on (25% of all); infinite from layer 3 on "
            "(12% of all); no scale of the loss keeps everything, for what lifts the smallest makes the largest "
            "infinite.",
        ),
        ([[-20, -20], [1, 1]], "subnormal from layer 0 on (50% of all); a loss scaled by 2^6 would keep everything."),
        (
            [[-30, -1, -1]],
            "half of the samples lose nothing anywhere; a loss scaled by 2^16 would keep everything.",
        ),
    ],
)
def test_what_is_lost_is_said_where_it_starts(log2_size, said):
    """float16 by hand: normal from 2^-14, nothing from 2^-25 down, infinite from 2^16 on."""
    lost = lost_in("float16", np.array(log2_size, float), "layer")
    assert " ".join(str(lost).split()) == f"float16: {said}"
    assert repr(lost) == f"Underflow(float16: {said[:-1]})"


def test_overflow_is_lost_too():
    lost = lost_in("float16", np.array([[20.0], [0.0]]), "layer")
    assert (lost.first_overflow, lost.share_overflow) == (0, 0.5)


@pytest.mark.parametrize(("value", "error"), [("float8", ValueError), (32, TypeError)])
def test_underflow_names_the_formats(value, error):
    with pytest.raises(error, match="dtype: expected one of float32, float16, bfloat16, float64"):
        deep_sigmoid(2).underflow(value)


# --- horizon


def test_horizon_by_hand():
    trace = an_lstm()
    squares = np.exp2(2 * trace.log2_dh) + np.exp2(2 * trace.log2_dc)
    lags = trace.horizon(0.9, per_sample=True)
    for k in range(2):
        for b in range(4):
            by_lag = squares[k, ::-1, b]
            held = np.cumsum(by_lag) / by_lag.sum()
            assert lags[k, b] == np.flatnonzero(held >= 0.9)[0]
    assert trace.horizon(0.9) == lags.max()
    assert trace.horizon(0.5) <= trace.horizon(0.9) <= trace.horizon(1.0) <= 60


def test_horizon_far_below_every_format():
    trace = an_lstm(steps=900, forget_bias=-3.0)
    assert trace.log2_dh[0, 0].max() < -1100
    assert 0 < trace.horizon(0.99) < 20


def test_horizon_of_lengths_and_of_other_cells():
    x = RNG.standard_normal((50, 3, 4)).astype("float32")
    for network in (gt.GRU.random(4, 8), gt.RNN.random(4, 8)):
        whole = network.trace(x[:20]).horizon(0.99, per_sample=True)
        short = network.trace(x, lengths=np.array([20, 20, 20])).horizon(0.99, per_sample=True)
        assert np.array_equal(whole, short)


def test_horizon_needs_one_cotangent():
    x = RNG.standard_normal((5, 3, 4)).astype("float32")
    lstm = gt.LSTM.random(4, 8)
    with pytest.raises(ValueError, match="one cotangent, at the last step"):
        lstm.trace(x, cotangent=np.ones((5, 3, 8), "float32")).horizon(0.9)
    for value, error in ((0.0, ValueError), (1.5, ValueError), ("all", TypeError), (True, TypeError)):
        with pytest.raises(error, match="share: expected"):
            lstm.trace(x).horizon(value)


# --- compare


def test_compare_before_and_after():
    x = np.random.default_rng(0).standard_normal((32, 16)).astype("float32")
    sizes = [16, *[64] * 20, 4]
    before = gt.Stack.random(sizes, "sigmoid", seed=0).trace(x)
    after = gt.Stack.random(sizes, "relu", init="he_normal", seed=0).trace(x)
    comparison = before.compare(after)
    assert set(comparison.resolved) == {"vanishing", "bias_shift"}
    assert comparison.new == comparison.remaining == ()
    was, now = comparison.figures["first over last, bits"]
    assert was < -40
    assert abs(now) < 3
    assert "resolved: vanishing" in str(comparison)
    assert "<table>" in comparison._repr_html_()
    assert comparison.to_dict()["new"] == []


def test_compare_recurrent_and_refuse_the_other_kind():
    comparison = an_lstm(forget_bias=-2.0).compare(an_lstm(forget_bias=5.0))
    assert "forgetting" in comparison.resolved
    with pytest.raises(TypeError, match="after: expected a StackTrace, got RecurrentTrace"):
        deep_sigmoid(2).compare(an_lstm())


# --- files


@pytest.mark.parametrize("per_sample", [True, False])
def test_stack_trace_round_trip(tmp_path, per_sample):
    keep = ("deltas", "activations", "derivatives", "grad_weights", "grad_biases") if per_sample else ("grad_weights",)
    trace = deep_sigmoid(5, keep=keep, per_sample=per_sample)
    path = tmp_path / "trace"  # no suffix is added
    trace.save(path)
    again = gt.load_trace(path)
    assert again == trace
    assert str(again) == str(trace)
    assert str(again.diagnose()) == str(trace.diagnose())
    with pytest.raises(ValueError, match="read-only"):
        again.log2_delta[0, 0] = 0


@pytest.mark.parametrize("cell", [gt.LSTM, gt.GRU, gt.RNN])
def test_recurrent_trace_round_trip(tmp_path, cell):
    x = RNG.standard_normal((6, 5, 3)).astype("float32")
    readout = gt.Stack.random([16, 4], seed=0, output_activation=None)
    network = cell.random(3, 8, num_layers=2, bidirectional=True, seed=1)
    trace = network.trace(
        x, readout=readout, target=np.arange(5) % 4, loss="cross_entropy", keep=("dh", "grad_weight_hh"),
        lengths=np.array([6, 3, 2, 6, 1]),
    )  # fmt: skip
    trace.save(str(tmp_path / "trace.npz"))
    again = gt.load_trace(str(tmp_path / "trace.npz"))
    assert again == trace
    assert again.dh == trace.dh
    assert again.diagnose().kinds == trace.diagnose().kinds


def test_special_figures_survive(tmp_path):
    weights = [np.zeros((3, 4), "float32"), np.full((3, 3), np.nan, "float32")]
    trace = gt.Stack(weights).trace(np.ones((2, 4), "float32"))
    trace.save(tmp_path / "t")
    assert gt.load_trace(tmp_path / "t") == trace
    assert np.isneginf(trace.log2_preactivation[0]).all()


def test_files_of_others_get_one_clear_line(tmp_path):
    deep_sigmoid(3).save(tmp_path / "good")
    good = (tmp_path / "good").read_bytes()
    facts = '{"format": "gradtrace trace 2", "kind": "%s", "kept": {}}'
    bad = {
        "empty": b"", "text": b"hello", "cut": good[: len(good) // 2], "zip": _zip({"a.txt": b"x"}),
        "other npz": _npz(a=np.ones(3)), "pickle": _npz(facts=np.array([{}], dtype=object)),
        "wrong facts": _npz(**{"facts.json": np.array("[]")}),
        "wrong format": _npz(**{"facts.json": np.array('{"format": "x"}')}),
        "facts only": _npz(**{"facts.json": np.array(facts % "StackTrace")}),
        "other kind": _npz(**{"facts.json": np.array(facts % "os")}),
    }  # fmt: skip
    for name, content in bad.items():
        path = tmp_path / name
        path.write_bytes(content)
        with pytest.raises(ValueError, match=r"^path: expected a trace that save\(\) wrote, got") as caught:
            gt.load_trace(path)
        assert "\n" not in str(caught.value), name
    with pytest.raises(FileNotFoundError):
        gt.load_trace(tmp_path / "missing")


def _zip(members):
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return file.getvalue()


def _npz(**arrays):
    file = io.BytesIO()
    np.savez(file, **arrays)
    return file.getvalue()


# --- plots: methods that take and return axes


def test_plots_of_a_stack():
    pyplot = pytest.importorskip("matplotlib.pyplot")
    trace = deep_sigmoid(6, keep=("derivatives",))
    _, ax = pyplot.subplots()
    assert trace.plot(ax) is ax
    assert "log2" in ax.get_ylabel()
    ax = trace.plot_gains()
    assert ax.get_ylabel() == "bits per layer"
    ax = trace.plot_derivatives()
    assert ax.get_ylabel() == "derivative over its largest"
    shares = ax.collections[0].get_array().reshape(25, 7)
    assert np.allclose(shares.sum(axis=0), 100, rtol=tolerance("recomputed", "sums"))
    with pytest.raises(AttributeError, match="keep=\\('derivatives',\\)"):
        deep_sigmoid(2).plot_derivatives()
    pyplot.close("all")


def test_derivatives_are_kept_as_they_are():
    trace = deep_sigmoid(3, keep=("derivatives", "activations"))
    for layer in range(3):
        a = trace.activations[layer].to_numpy(np.float64)
        assert np.allclose(
            trace.derivatives[layer].to_numpy(np.float64), a * (1 - a), atol=tolerance("recomputed", "sums", "float32")
        )


@pytest.mark.parametrize("cell", [gt.LSTM, gt.GRU, gt.RNN])
def test_plots_of_recurrent_networks(cell):
    pyplot = pytest.importorskip("matplotlib.pyplot")
    x = RNG.standard_normal((12, 5, 3)).astype("float32")
    network = cell.random(3, 8, num_layers=2)
    trace = network.trace(x, lengths=np.array([12, 3, 7, 12, 1]))
    _, ax = pyplot.subplots()
    assert trace.plot(ax, layer=1) is ax
    assert trace.plot_parts().get_ylabel().startswith(("norm", "bits"))
    assert network.influence(x).plot().get_xlabel() == "state after t steps"
    if cell is gt.RNN:
        with pytest.raises(AttributeError, match="neither gates"):
            trace.plot_gates()
    else:
        assert trace.plot_gates().get_xlabel() == "step"
        assert trace.plot_retention().get_ylabel() == "sample, shortest first"
    pyplot.close("all")


# --- figures at their edges


def test_figures_of_one_layer_show_it():
    pyplot = pytest.importorskip("matplotlib.pyplot")
    x = np.random.default_rng(0).standard_normal((20, 8)).astype("float32")
    trace = gt.Stack.random([8, 3], "tanh", None, seed=0).trace(x, keep=("derivatives",))
    ax = trace.plot()
    assert ax.get_lines()[0].get_marker() == "o"
    assert [tick for tick in ax.get_xticks() if -0.5 <= tick <= 0.5] == [0]
    assert "one layer" in trace.plot_gains().texts[0].get_text()
    mesh = trace.plot_derivatives().collections[0]
    corners = mesh.get_coordinates()[0, :, 0]
    assert corners.tolist() == [-0.5, 0.5]
    assert abs(mesh.get_array().sum() - 100) < tolerance("recomputed", "differences")
    pyplot.close("all")


def test_derivatives_are_drawn_at_their_layers():
    pyplot = pytest.importorskip("matplotlib.pyplot")
    trace = deep_sigmoid(4, keep=("derivatives",))
    mesh = trace.plot_derivatives().collections[0]
    assert mesh.get_coordinates()[0, :, 0].tolist() == [-0.5, 0.5, 1.5, 2.5, 3.5, 4.5]
    pyplot.close("all")


def test_figures_name_a_wrong_argument():
    pytest.importorskip("matplotlib")
    trace, recurrent = deep_sigmoid(2), an_lstm()
    for call in (trace.plot, trace.plot_gains, recurrent.plot, recurrent.plot_gates):
        with pytest.raises(TypeError, match="ax: expected matplotlib Axes or None, got int"):
            call(3)
    for call in (recurrent.plot, recurrent.plot_parts, recurrent.plot_gates, recurrent.plot_retention):
        with pytest.raises(ValueError, match="layer: expected 0 to 1, got 2"):
            call(layer=2)
    with pytest.raises(ValueError, match="layer: expected 0 to 1, got 2"):
        recurrent.underflow(layer=2)
    with pytest.raises(TypeError, match="layer: expected an integer, got str"):
        recurrent.plot(layer="first")
