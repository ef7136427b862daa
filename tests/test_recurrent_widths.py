"""Stacked layers of different widths: PyTorch's layers one behind the other, and the oracle's."""

import pickle
from types import SimpleNamespace

import numpy as np
import pytest
import recurrent_reference as rr
from portable_cases import build_net, converted_net, recurrent_net
from recurrent_cases import CELLS, GRADIENTS, KEPT
from tolerances import RECURRENT, assert_close, assert_recurrent, tolerance

import gradtrace as gt
from gradtrace.analysis.underflow import lost_in

T, B, I, WIDTHS = 7, 5, 3, (9, 4, 6)  # noqa: E741
LENGTHS = np.array([3, 7, 1, 7, 5])


def layers_of(cell, both, dtype="float64"):
    """One oracle's net for each stacked layer."""
    rng, inputs, nets = np.random.default_rng(len(cell)), I, []
    options = {"activation": "relu" if cell == "relu" else "tanh", "dtype": dtype}
    for hidden in WIDTHS:
        nets.append(recurrent_net(rng, "rnn" if cell == "relu" else cell, inputs, hidden, 1, both, **options))
        inputs = hidden * (1 + both)
    return nets


def joined(nets):
    return nets[0]._replace(layers=[layer for net in nets for layer in net.layers])


def given(rng, cell, both, dtype):
    """Arguments of `trace`; states are lists, one entry for each layer and direction."""
    widths = [hidden for hidden in WIDTHS for _ in range(1 + both)]
    x, u = rng.standard_normal((T, B, I)), rng.standard_normal((T, B, WIDTHS[-1] * (1 + both)))
    names = ("h0", "cotangent_h", "c0", "cotangent_c")[: 4 if cell == "lstm" else 2]
    states = {name: [rng.standard_normal((B, n)).astype(dtype) for n in widths] for name in names}
    return {"x": x.astype(dtype), "cotangent": u.astype(dtype), **states}


def chained(nets, both, x, cotangent, h0, cotangent_h, c0=None, cotangent_c=None, lengths=None):
    """The oracle's trace of every layer: inputs passed up, gradients down."""
    per = 1 + both

    def own(arrays, k):
        return None if arrays is None else np.array(arrays[k * per : (k + 1) * per], dtype=float)

    inputs, below = [x.astype(float)], []
    for k, net in enumerate(nets):
        u = np.zeros((T, B, WIDTHS[k] * per))
        inputs.append(rr.trace(net, inputs[-1], u, own(h0, k), own(c0, k), None, lengths).y)
    u = cotangent.astype(float)
    for k in reversed(range(len(nets))):
        last = {"v": own(cotangent_c, k), "w": own(cotangent_h, k)}
        below.append(rr.trace(nets[k], inputs[k], u, own(h0, k), own(c0, k), lengths=lengths, **last))
        u = rr.Rows(np.nan_to_num(below[-1].dx.m), below[-1].dx.e)
    return below[::-1], inputs[-1]


def one_layer(trace, k, per):
    """The figures of one stacked layer."""
    names = [name for name in RECURRENT[trace.cell] if name != "log2_dx"]
    return SimpleNamespace(
        cell=trace.cell, **{name: np.array(list(getattr(trace, name))[k * per : (k + 1) * per]) for name in names}
    )


@pytest.mark.parametrize("lengths", [None, LENGTHS], ids=["one length", "lengths"])
@pytest.mark.parametrize("both", [False, True])
@pytest.mark.parametrize("cell", CELLS)
def test_every_figure_is_that_of_the_layers_one_by_one(cell, both, lengths, dtype):
    nets, per = layers_of(cell, both, dtype), 1 + both
    net, arguments = build_net(joined(nets)), given(np.random.default_rng(1), cell, both, dtype)
    name = joined(nets).cell
    got = net.trace(**arguments, lengths=lengths, keep=KEPT[name] + GRADIENTS[name])
    exact, y = chained([converted_net(one, np.float64) for one in nets], both, **arguments, lengths=lengths)
    assert_close(got.log2_dx, exact[0].log2_dx, tolerance("recurrent", "log2", dtype))
    arrays = [array for array in KEPT[name] if array not in ("dx", "gates", "h", "c")]
    for k, layer in enumerate(exact):
        own = one_layer(got, k, per)
        assert_recurrent(own, layer, dtype, names=[figure for figure in RECURRENT[name] if figure != "log2_dx"])
        for array in arrays:
            assert len(getattr(got, array)) == 3 * per
            want = rr.plain(getattr(layer, array))
            mine = np.array([part.to_numpy("float64") for part in getattr(got, array)[k * per : (k + 1) * per]])
            assert_close(mine, want, tolerance("recurrent", "entries", dtype) * np.nanmax(abs(want)), array)
    states = {part: arguments[part] for part in ("h0", "c0") if part in arguments}
    outputs, ends = net.forward(arguments["x"], lengths=lengths, **states)
    limit = tolerance("recurrent", "entries", dtype) * max(1, abs(y).max())
    assert_close(outputs, y, limit)
    for part, wanted in zip(ends if cell == "lstm" else [ends], ("h_n", "c_n"), strict=False):
        for k, state in enumerate(part):
            assert_close(state, getattr(exact[k // per], wanted)[k % per], limit)


@pytest.mark.parametrize("both", [False, True])
@pytest.mark.parametrize("name", ["LSTM", "GRU", "RNN"])
def test_the_gradients_that_autograd_has(name, both):
    """PyTorch has no such network: its layers stand one behind the other."""
    torch = pytest.importorskip("torch")
    torch.manual_seed(0)
    sizes = (I, *(hidden * (1 + both) for hidden in WIDTHS))
    cells = [
        getattr(torch.nn, name)(inputs, hidden, bidirectional=both, dtype=torch.float64)
        for inputs, hidden in zip(sizes, WIDTHS, strict=False)
    ]
    parts = {part: [] for part in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")}
    for cell in cells:
        for part, arrays in parts.items():
            arrays += [getattr(cell, f"{part}_l0{end}").detach().numpy() for end in ("", "_reverse")[: 1 + both]]
    net = getattr(gt, name)(*parts.values(), bidirectional=both)
    assert (net.hidden_size, net.num_layers, net.input_size) == (WIDTHS, 3, I)
    x = torch.randn(T, B, I, dtype=torch.float64, requires_grad=True)
    y = x
    last, at_ends = {"cotangent_h": [], "cotangent_c": []} if name == "LSTM" else {"cotangent_h": []}, 0
    for cell in cells:
        y, final = cell(y)
        for arrays, state in zip(last.values(), final if name == "LSTM" else [final], strict=True):
            given = torch.randn_like(state)
            at_ends = at_ends + (given * state).sum()
            arrays += list(given.numpy())
    cotangent = torch.randn_like(y)
    ((cotangent * y).sum() + at_ends).backward()
    assert np.abs(net.forward(x.detach().numpy())[0] - y.detach().numpy()).max() < tolerance(
        "recomputed", "tens of roundings"
    )
    trace = net.trace(x.detach().numpy(), cotangent=cotangent.numpy(), **last, keep=["grad_weight_hh", "dx"])
    assert np.abs(trace.dx.to_numpy() - x.grad.numpy()).max() < tolerance("recomputed", "sums")
    for k, kept in enumerate(trace.grad_weight_hh):
        gradient = getattr(cells[k // (1 + both)], "weight_hh_l0" + "_reverse" * (k % 2 if both else 0)).grad.numpy()
        assert np.abs(kept.to_numpy() - gradient).max() < tolerance("recomputed", "sums")


@pytest.mark.parametrize("cell", CELLS)
def test_objects_reading_and_influence(cell, tmp_path):
    nets = layers_of(cell, False)
    net, arguments = build_net(joined(nets)), given(np.random.default_rng(2), cell, False, "float64")
    trace = net.trace(**arguments, keep=KEPT[joined(nets).cell])
    assert pickle.loads(pickle.dumps(net)) == net
    assert pickle.loads(pickle.dumps(trace)) == trace
    assert net.trace(**arguments) != trace
    assert trace.hidden_size == WIDTHS
    for text in (repr(net), str(trace), trace._repr_html_(), str(trace.diagnose())):
        assert 0 < len(text) < 100_000
    assert trace.to_xarray()["log2_dh"].shape == (3, T + 1, B)
    assert len(trace.to_dataframe()) == 3 * (T + 1) * B
    trace.save(tmp_path / "t.npz")
    assert gt.load_trace(tmp_path / "t.npz") == trace
    assert trace.underflow("float16", layer=2) == lost_in("float16", trace.log2_dh[2] - 0.5 * np.log2(6), "state")
    for layer, hidden in enumerate(WIDTHS):
        u = np.random.default_rng(3).standard_normal((B, hidden))
        exact = rr.influence(joined(nets[: layer + 1]), layer, arguments["x"], u) if layer == 0 else None
        got = net.influence(arguments["x"], cotangent=u, layer=layer)
        assert got.shape == (T + 1, T + 1, B)
        if exact is not None:
            assert_close(got.log2_dh, exact[0], tolerance("recurrent", "log2"))
    with pytest.raises(ValueError, match=r"^cotangent: expected shape \(5, 6\)"):
        net.influence(arguments["x"], cotangent=np.ones((B, 9)))


@pytest.mark.parametrize("cell", ["lstm", "gru", "rnn"])
def test_remedies_keep_the_widths(cell):
    net = build_net(joined(layers_of(cell, False, "float32")))
    x = np.random.default_rng(0).standard_normal((T, B, I)).astype("float32")
    tried = net.remedies(x, steps=2)
    assert {"lstm": "chrono", "gru": "update_gate", "rnn": "lstm"}[cell] in [remedy.name for remedy in tried]
    assert all(remedy.network.hidden_size == WIDTHS for remedy in tried)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"h0": np.zeros((3, B, 9))}, TypeError, r"^h0: expected a list of 3 arrays, one for each layer, since they"),
        ({"h0": [np.zeros((B, 9))]}, ValueError, r"^h0: expected a list of 3, one array for each layer, got"),
        ({"h0": [np.zeros((B, n)) for n in (9, 4, 5)]}, ValueError, r"^h0\[2\]: expected shape \(5, 6\), got \(5, 5\)"),
        ({"c0": [np.zeros((B, n), "f4") for n in WIDTHS]}, TypeError, r"^c0\[0\]: expected dtype float64"),
        ({"cotangent_c": [np.full((B, n), np.inf) for n in WIDTHS]}, ValueError, r"^cotangent_c\[0\]: expected finite"),
        ({"cotangent_h": [np.zeros((B, n)) for n in (9, 4, 5)]}, ValueError, r"^cotangent_h\[2\]: expected shape"),
        ({"cotangent_h": np.zeros((3, B, 9))}, TypeError, r"^cotangent_h: expected a list of 3 arrays, one for each"),
        ({"cotangent": np.zeros((B, 9))}, ValueError, r"^cotangent: expected shape \(5, 6\)"),
    ],
)  # fmt: skip
def test_states_that_do_not_fit_are_refused(change, error, message):
    net = build_net(joined(layers_of("lstm", False)))
    with pytest.raises(error, match=message):
        net.trace(np.zeros((T, B, I)), **change)


def test_layers_that_do_not_follow_each_other_are_refused():
    ih, hh = [np.ones((36, 3)), np.ones((16, 9))], [np.ones((36, 9)), np.ones((16, 4))]
    assert gt.LSTM(ih, hh).hidden_size == (9, 4)
    with pytest.raises(ValueError, match=r"^weight_ih\[1\]: expected shape \(4H, I\) with H=4, I=9, got \(16, 8\)"):
        gt.LSTM([ih[0], np.ones((16, 8))], hh)
    with pytest.raises(ValueError, match=r"^weight_hh\[1\]: expected H=9 as in the layer's other direction"):
        gt.LSTM([ih[0], np.ones((16, 3))], hh, bidirectional=True)
    with pytest.raises(ValueError, match=r"^bias_ih\[1\]: expected shape \(4H,\) with H=4"):
        gt.LSTM(ih, hh, [np.ones(36), np.ones(36)])
