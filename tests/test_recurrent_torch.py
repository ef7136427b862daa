"""PyTorch's float64 autograd: a cell loop for what happens inside, torch.nn's own layers for what goes in and out."""

import numpy as np
import pytest
from portable_cases import build_net, recurrent_net
from tolerances import assert_close, tolerance

torch = pytest.importorskip("torch", reason="PyTorch is not installed")

MODULES = {"lstm": torch.nn.LSTM, "gru": torch.nn.GRU, "rnn": torch.nn.RNN, "relu": torch.nn.RNN}
LENGTHS = np.array([3, 8, 1, 8, 5])
T, B, I, H = 8, 5, 4, 6  # noqa: E741


def network(cell, layers=1, both=False):
    return recurrent_net(np.random.default_rng(5), "rnn" if cell == "relu" else cell, I, H, layers, both, gain=1.4,
                         bias=0.5, activation="relu" if cell == "relu" else "tanh")  # fmt: skip


def parameters(net):
    return [[torch.tensor(p, requires_grad=True) for p in layer] for layer in net.layers]


def module(net):
    options = {"nonlinearity": net.activation} if net.cell == "rnn" else {}
    directions = 1 + net.bidirectional
    result = MODULES[net.cell](I, H, len(net.layers) // directions, bidirectional=net.bidirectional,
                               dtype=torch.float64, **options)  # fmt: skip
    with torch.no_grad():
        for k, layer in enumerate(net.layers):
            suffix = f"l{k // directions}" + "_reverse" * (k % directions)
            for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh"):
                getattr(result, f"{name}_{suffix}")[:] = torch.from_numpy(getattr(layer, name))
    return result


def assert_entries(kept, exact):
    assert_close(kept.to_numpy(), exact.reshape(kept.shape), tolerance("gradient", "entries") * abs(exact).max())


def log2(array, axis=-1):
    with np.errstate(divide="ignore"):
        return np.log2(np.linalg.norm(array, axis=axis))


def step(cell, a, q, h, c):
    if cell == "lstm":
        i, f, g, o = (a + q).chunk(4, dim=1)
        c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
        return lambda c: torch.sigmoid(o) * torch.tanh(c), c
    if cell == "gru":
        (a_r, a_z, a_n), (q_r, q_z, q_n) = a.chunk(3, dim=1), q.chunk(3, dim=1)
        z = torch.sigmoid(a_z + q_z)
        return lambda _: (1 - z) * torch.tanh(a_n + torch.sigmoid(a_r + q_r) * q_n) + z * h, c
    return lambda _: (torch.tanh if cell == "rnn" else torch.relu)(a + q), c


@pytest.mark.parametrize("cell", MODULES)
def test_gradients_inside_a_cell_loop(cell):
    """dL/dh_t, dL/dc_t and dL/d(preactivation) of every step, by retained gradients."""
    rng, net = np.random.default_rng(1), network(cell)
    x, u = rng.standard_normal((T, B, I)), rng.standard_normal((T, B, H))
    h0, c0, v = rng.standard_normal((3, 1, B, H))
    ((weight_ih, weight_hh, bias_ih, bias_hh),) = parameters(net)
    h, c = [torch.tensor(h0[0], requires_grad=True)], [torch.tensor(c0[0], requires_grad=True)]
    gates = []
    for x_t in torch.from_numpy(x):
        gates.append(x_t @ weight_ih.T + bias_ih)
        output, c_t = step(cell, gates[-1], h[-1] @ weight_hh.T + bias_hh, h[-1], c[-1])
        c.append(c_t if cell == "lstm" else torch.zeros(B, H, dtype=torch.float64, requires_grad=True))
        h.append(output(c[-1]))
        for part in (gates[-1], h[-1], c[-1]):
            part.retain_grad()
    loss = sum((torch.from_numpy(u_t) * h_t).sum() for u_t, h_t in zip(u, h[1:], strict=True))
    (loss + (torch.from_numpy(v[0]) * c[-1]).sum()).backward()

    given = {"c0": c0, "cotangent_c": v} if cell == "lstm" else {}
    names = {"lstm": ("dc", "dgates"), "gru": ("dgates",)}.get(cell, ("dz",))
    got = build_net(net).trace(x, h0=h0, cotangent=u, **given, keep=("dh", "grad_weight_ih", "grad_weight_hh", *names))
    dh = np.array([h_t.grad.numpy() for h_t in h])
    assert_close(got.log2_dh[0], log2(dh), tolerance("torch", "log2"))
    assert_entries(got.dh, dh)
    assert_entries(getattr(got, names[-1]), np.array([gate.grad.numpy() for gate in gates]))
    if cell == "lstm":
        dc = np.array([c_t.grad.numpy() for c_t in c])
        assert_close(got.log2_dc[0], log2(dc), tolerance("torch", "log2"))
        assert_entries(got.dc, dc)
    assert_entries(got.grad_weight_ih[0], weight_ih.grad.numpy())
    assert_entries(got.grad_weight_hh[0], weight_hh.grad.numpy())


@pytest.mark.parametrize("packed", [False, True], ids=["full", "packed"])
@pytest.mark.parametrize("both", [False, True], ids=["one way", "both ways"])
@pytest.mark.parametrize("cell", MODULES)
def test_layers_of_torch(cell, both, packed):
    """Two layers: outputs, final states, dL/dx and the gradients of all parameters."""
    rng, net = np.random.default_rng(2), network(cell, 2, both)
    layers, K = module(net), len(net.layers)
    x, u = rng.standard_normal((T, B, I)), rng.standard_normal((T, B, (1 + both) * H))
    h0, c0, v = rng.standard_normal((3, K, B, H))
    inputs, start = torch.tensor(x, requires_grad=True), torch.tensor(h0, requires_grad=True)
    state = (start, torch.tensor(c0, requires_grad=True)) if cell == "lstm" else start
    sequence = inputs
    if packed:
        sequence = torch.nn.utils.rnn.pack_padded_sequence(inputs, torch.from_numpy(LENGTHS), enforce_sorted=False)
    y, final = layers(sequence, state)
    if packed:
        y, _ = torch.nn.utils.rnn.pad_packed_sequence(y)
    h_n, c_n = final if cell == "lstm" else (final, None)
    loss = (torch.from_numpy(u) * y).sum() + (0 if c_n is None else (torch.from_numpy(v) * c_n).sum())
    loss.backward()

    given = {"h0": h0, "lengths": LENGTHS if packed else None} | ({"c0": c0} if cell == "lstm" else {})
    ours = build_net(net)
    got_y, got_final = ours.forward(x, **given)
    got_h, got_c = got_final if cell == "lstm" else (got_final, None)
    for got, exact in ((got_y, y), (got_h, h_n), (got_c, c_n)):
        if exact is not None:
            assert_close(got, exact.detach().numpy(), tolerance("gradient", "entries"))

    biases = {"bias_ih": "grad_bias_ih" if cell == "gru" else "grad_bias", "bias_hh": "grad_bias_hh"}
    if cell != "gru":
        biases["bias_hh"] = "grad_bias"
    names = {"weight_ih": "grad_weight_ih", "weight_hh": "grad_weight_hh", **biases}
    given |= {"cotangent_c": v} if cell == "lstm" else {}
    got = ours.trace(x, **given, cotangent=u, keep=("dx", "dh", *dict.fromkeys(names.values())))
    dx = inputs.grad.numpy()
    there = np.arange(T)[:, None] < (LENGTHS if packed else np.full(B, T))
    assert_close(got.log2_dx[there], log2(dx)[there], tolerance("torch", "log2"))
    assert_close(np.nan_to_num(got.dx.to_numpy()), dx, tolerance("gradient", "entries") * abs(dx).max())
    assert_close(got.log2_dh[:, 0], log2(start.grad.numpy()), tolerance("torch", "log2"))
    if cell == "lstm":
        assert_close(got.log2_dc[:, 0], log2(state[1].grad.numpy()), tolerance("torch", "log2"))
    for k in range(K):
        suffix = f"l{k // (1 + both)}" + "_reverse" * (k % (1 + both))
        for theirs, kept in names.items():
            gradient = getattr(layers, f"{theirs}_{suffix}").grad.numpy()
            assert_entries(getattr(got, kept)[k], gradient)
            assert_close(getattr(got, f"log2_{kept}")[k], log2(gradient.ravel()), tolerance("torch", "log2"))


ARRIVING = [*((cell, ends) for cell in MODULES for ends in ("h_n", "y h_n")),
            *(("lstm", ends) for ends in ("c_n", "h_n c_n", "y h_n c_n"))]  # fmt: skip


@pytest.mark.parametrize("packed", [False, True], ids=["full", "packed"])
@pytest.mark.parametrize("both", [False, True], ids=["one way", "both ways"])
@pytest.mark.parametrize(("cell", "arriving"), ARRIVING)
def test_gradients_of_final_states(cell, both, packed, arriving):
    """Three layers, losses of y, h_n and c_n: dL/dx, those of all weights and of both initial states."""
    rng, net = np.random.default_rng(6), network(cell, 3, both)
    layers, K = module(net), len(net.layers)
    x, u = rng.standard_normal((T, B, I)), rng.standard_normal((T, B, (1 + both) * H))
    h0, c0, v, w = rng.standard_normal((4, K, B, H))
    inputs, *states = (torch.tensor(part, requires_grad=True) for part in ((x, h0, c0) if cell == "lstm" else (x, h0)))
    sequence = inputs
    if packed:
        sequence = torch.nn.utils.rnn.pack_padded_sequence(inputs, torch.from_numpy(LENGTHS), enforce_sorted=False)
    y, final = layers(sequence, tuple(states) if cell == "lstm" else states[0])
    if packed:
        y, _ = torch.nn.utils.rnn.pad_packed_sequence(y)
    seen = {"y": y, "h_n": final[0] if cell == "lstm" else final, "c_n": final[1] if cell == "lstm" else None}
    weights, words = {"y": u, "h_n": w, "c_n": v}, {"y": "cotangent", "h_n": "cotangent_h", "c_n": "cotangent_c"}
    sum((torch.from_numpy(weights[name]) * seen[name]).sum() for name in arriving.split()).backward()

    given = {"h0": h0, "lengths": LENGTHS if packed else None} | ({"c0": c0} if cell == "lstm" else {})
    given |= {words[name]: weights[name] for name in arriving.split()}
    got = build_net(net).trace(x, **given, keep=("dx", "dh", "grad_weight_ih", "grad_weight_hh"))
    dx = inputs.grad.numpy()
    assert_close(np.nan_to_num(got.dx.to_numpy()), dx, tolerance("gradient", "entries") * abs(dx).max())
    for figure, state in zip(("log2_dh", "log2_dc"), states, strict=False):
        assert_close(getattr(got, figure)[:, 0], log2(state.grad.numpy()), tolerance("torch", "log2"))
    for k in range(K):
        suffix = f"l{k // (1 + both)}" + "_reverse" * (k % (1 + both))
        for name in ("weight_ih", "weight_hh"):
            assert_entries(getattr(got, f"grad_{name}")[k], getattr(layers, f"{name}_{suffix}").grad.numpy())


@pytest.mark.parametrize("cell", MODULES)
def test_cotangent_at_the_end_is_one_of_h_n(cell):
    rng, net = np.random.default_rng(3), network(cell, 2, True)
    x, u = rng.standard_normal((T, B, I)), rng.standard_normal((B, 2 * H))
    inputs = torch.tensor(x, requires_grad=True)
    packed = torch.nn.utils.rnn.pack_padded_sequence(inputs, torch.from_numpy(LENGTHS), enforce_sorted=False)
    _, final = module(net)(packed)
    h_n = final[0] if cell == "lstm" else final
    (torch.from_numpy(u) * torch.cat([h_n[2], h_n[3]], dim=1)).sum().backward()
    got = build_net(net).trace(x, lengths=LENGTHS, cotangent=u, keep=("dx",))
    dx = inputs.grad.numpy()
    assert_close(np.nan_to_num(got.dx.to_numpy()), dx, tolerance("gradient", "entries") * abs(dx).max())


@pytest.mark.parametrize("at", ["last", "all"])
@pytest.mark.parametrize("loss", ["cross_entropy", "mse"])
def test_losses_through_a_readout(loss, at):
    import gradtrace as gt

    rng, net = np.random.default_rng(4), network("lstm", 1, True)
    x, weight = rng.standard_normal((T, B, I)), rng.standard_normal((3, 2 * H))
    lead = (B,) if at == "last" else (T, B)
    target = rng.integers(0, 3, lead) if loss == "cross_entropy" else rng.standard_normal((*lead, 3))
    inputs, there = torch.tensor(x, requires_grad=True), np.arange(T)[:, None] < LENGTHS
    packed = torch.nn.utils.rnn.pack_padded_sequence(inputs, torch.from_numpy(LENGTHS), enforce_sorted=False)
    y, (h_n, _) = module(net)(packed)
    if at == "last":
        seen, wanted = torch.cat([h_n[0], h_n[1]], dim=1), target
    else:
        seen, wanted = torch.nn.utils.rnn.pad_packed_sequence(y)[0][torch.from_numpy(there)], target[there]
    function = torch.nn.functional.cross_entropy if loss == "cross_entropy" else torch.nn.functional.mse_loss
    value = function(seen @ torch.from_numpy(weight).T, torch.from_numpy(wanted))
    value.backward()
    readout = gt.Stack([weight], activation="linear")
    got = build_net(net).trace(x, lengths=LENGTHS, readout=readout, target=target, loss=loss, at=at, keep=("dx",))
    dx = inputs.grad.numpy()
    assert got.loss == pytest.approx(float(value.detach()), rel=tolerance("torch", "loss"))
    assert_close(np.nan_to_num(got.dx.to_numpy()), dx, tolerance("gradient", "entries") * abs(dx).max())
