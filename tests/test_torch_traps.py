# ruff: noqa: E501  (tables of forward passes)
"""Forward passes whose value says nothing of their gradient, that keep something, or that look at shapes."""

import threading

import numpy as np
import pytest
from tolerances import tolerance

import gradtrace as gt

torch = pytest.importorskip("torch")
nn, F = torch.nn, torch.nn.functional


class Two(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.a, self.b = nn.Linear(4, 4), nn.Linear(4, 2)


class Reversed(torch.autograd.Function):
    """The same value, the gradient with the other sign."""

    @staticmethod
    def forward(ctx, x):
        return x.clone()

    @staticmethod
    def backward(ctx, gradient):
        return -gradient


def module(forward):
    return type("Model", (Two,), {"forward": forward})()


def no_grad(m, x):
    with torch.no_grad():
        h = torch.relu(m.a(x))
    return m.b(h)


def autocast(m, x):
    with torch.autocast("cpu", dtype=torch.bfloat16):
        return m.b(torch.relu(m.a(x)))


def straight_through(m, x):
    h = m.a(x)
    return m.b(h + (torch.sign(h) - h).detach())


STOPPED = {
    "detach": (lambda m, x: m.b(torch.relu(m.a(x)).detach()), "what has no gradient"),
    "data": (lambda m, x: m.b(m.a(x).data), "what has no gradient"),
    "no_grad": (no_grad, "what has no gradient"),
    "straight through": (straight_through, "what has no gradient"),
    "a gradient of its own": (lambda m, x: m.b(Reversed.apply(m.a(x))), "Reversed has a gradient of its own"),
    "half": (lambda m, x: m.b(m.a(x).to(torch.bfloat16).float()), "another precision"),
    "autocast": (autocast, "autocast to another precision"),
    "drawn": (lambda m, x: m.b(m.a(x) + torch.randn_like(x)), "another network each time"),
    "a mask": (lambda m, x: m.b(m.a(x) * torch.bernoulli(torch.full_like(x, 0.5))), "cannot be represented|each time"),
    "an entry set": (lambda m, x: m.b(torch.index_fill(m.a(x), 1, torch.tensor([0]), 0.0)), "an index_fill cannot"),
}  # fmt: skip


@pytest.mark.parametrize("check", [True, False])
@pytest.mark.parametrize("name", STOPPED)
def test_what_has_another_gradient_than_its_value_says_is_refused(name, check):
    forward, reason = STOPPED[name]
    with pytest.raises(ValueError, match=reason) as refused:
        gt.from_torch(module(forward), check=check)
    assert "(test_torch_traps.py:" in str(refused.value)
    assert "apply" in torch.autograd.Function.__dict__  # as it was
    x = torch.ones(1, requires_grad=True)
    Reversed.apply(x).backward()
    assert x.grad.item() == -1


def test_inputs_that_are_prepared_without_a_gradient_are_taken_and_told():
    def forward(m, x):
        with torch.no_grad():
            x = (x - 1.0) / 2.0
        return m.b(torch.relu(m.a(x)))

    net = gt.from_torch(module(forward))
    assert any("the gradient of the inputs ends" in note for note in net.notes)


def test_operations_in_place_are_seen_by_all_who_take_the_value():
    def forward(m, x):
        h = m.a(x)
        h.mul_(0.5)
        F.relu(h, inplace=True)
        return m.b(h)

    made = module(forward).double()
    net, x = gt.from_torch(made, check=False), np.random.default_rng(0).standard_normal((3, 4))
    assert net.activation == ("relu", "linear")
    assert np.abs(net.forward(x) - made(torch.from_numpy(x)).detach().numpy()).max() < tolerance("torch", "entries")


class Stateful(nn.Module):
    """Keeps its state and its outputs in attributes, as many do."""

    def __init__(self):
        super().__init__()
        self.lstm, self.head = nn.LSTM(3, 4), nn.Linear(4, 2)
        self.hidden, self.seen, self.calls = (torch.zeros(1, 4, 4), torch.zeros(1, 4, 4)), [], {}

    def forward(self, x):
        out, self.hidden = self.lstm(x, self.hidden)
        self.seen.append(out)
        self.calls[len(self.seen)] = out
        return self.head(out[-1])


def test_what_a_forward_pass_keeps_is_as_it_was():
    made = Stateful()
    hidden = made.hidden
    assert gt.from_torch(made).readout is not None
    assert made.hidden is hidden
    assert (made.seen, made.calls) == ([], {})
    made(torch.randn(5, 4, 3))
    with pytest.raises(ValueError, match="initial states other than 0"):
        gt.from_torch(made)
    assert len(made.seen) == 1
    assert isinstance(made.hidden[0], torch.Tensor)


class Pixels(nn.Module):
    """An image as a sequence of rows."""

    def __init__(self, size=6):
        super().__init__()
        self.size, self.rnn, self.fc = size, nn.GRU(size, 5, batch_first=True), nn.Linear(5, 3)

    def forward(self, image):
        rows = image.reshape(-1, self.size, self.size)
        return self.fc(self.rnn(rows)[0][:, -1, :])


class Series(nn.Module):
    """One value a step."""

    def __init__(self):
        super().__init__()
        self.rnn, self.fc = nn.LSTM(1, 5, batch_first=True), nn.Linear(5, 1)

    def forward(self, x):
        out, _ = self.rnn(x.unsqueeze(-1))
        return self.fc(out[:, -1])


class Counted(nn.Module):
    """Depends on the number of samples."""

    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(4, 2)

    def forward(self, x):
        if x.size(0) > 100:
            x = 2 * x
        return self.fc(x) / len(x)


def test_an_example_tells_shapes_and_numbers_of_samples_must_not_matter():
    images, series = torch.randn(4, 1, 6, 6), torch.randn(4, 7)
    for made, example, x in ((Pixels(), images, images.reshape(4, 6, 6)), (Series(), series, series[:, :, None])):
        with pytest.raises(ValueError, match="example: expected an input of the module, got None"):
            gt.from_torch(made)
        net = gt.from_torch(made, example)
        h = net.forward(x.numpy())[1]
        h = h[0] if isinstance(h, tuple) else h
        got = net.readout.forward(np.ascontiguousarray(h[-1]))
        assert np.abs(got - made(example).detach().numpy()).max() < tolerance("recomputed", "sums", "float32")
    with pytest.raises(ValueError, match="module: expected the outputs of the module"):
        gt.from_torch(Counted(), torch.randn(4, 4))


def test_activations_that_are_held_in_no_module_are_looked_into():
    acts = [nn.ReLU(), nn.Tanh()]
    assert gt.from_torch(module(lambda m, x: acts[1](m.b(acts[0](m.a(x)))))).activation == ("relu", "tanh")


def test_checkpointed_blocks_are_followed():
    from torch.utils.checkpoint import checkpoint

    net = gt.from_torch(module(lambda m, x: m.b(checkpoint(m.a, x, use_reentrant=False))))
    assert net.sizes == (4, 4, 2)


def deep(m, x):
    for _ in range(300):
        x = 0.9 * torch.tanh(x) + 0.1 * x
    return m.a(x)


ODD = {
    "nothing": lambda m, x: None, "a number": lambda m, x: 3, "the inputs": lambda m, x: x, "a parameter": lambda m, x: m.a.weight,
    "no outputs": lambda m, x: (), "itself": lambda m, x: m.forward(x), "a generator": lambda m, x: next(iter(())), "a shape": lambda m, x: m.a(x).shape,
    "samples by samples": lambda m, x: m.a(x) @ x.t(), "a call": lambda m, x: m.a(x)(3), "an attribute": lambda m, x: m.a(x).missing,
    "inputs as weights": lambda m, x: F.linear(x, m.a(x)), "units by samples": lambda m, x: m.a.weight @ x.t(), "none added": lambda m, x: m.a(x) + None,
    "a word added": lambda m, x: m.a(x) + "word", "infinite": lambda m, x: m.b(m.a(x) * float("inf")), "by 0": lambda m, x: m.b(m.a(x) / 0.0),
    "too few": lambda m, x: m.b(m.a(x) * torch.full((3,), 2.0)), "a matrix": lambda m, x: m.b(m.a(x) * torch.ones(4, 4)),
    "empty": lambda m, x: m.b(m.a(x) + torch.ones(0)), "a square": lambda m, x: m.b(m.a(x) ** 2), "a power": lambda m, x: m.b(2 ** m.a(x)), "deep": deep,
    "a loop over samples": lambda m, x: sum(m.a(row) for row in x), "complex": lambda m, x: m.a(x) * 1j, "turned": lambda m, x: m.a(x).T,
    "as an array": lambda m, x: torch.from_numpy(m.a(x).detach().numpy()), "a tensor of one": lambda m, x: torch.tensor(m.a(x)),
    "an item": lambda m, x: m.a(x) * x.sum().item(), "by its samples": lambda m, x: m.a(x) / x.size(0), "keys": lambda m, x: m.a(x["inputs"]),
}  # fmt: skip


@pytest.mark.parametrize("check", [True, False])
@pytest.mark.parametrize("name", ODD)
def test_odd_forward_passes_are_refused_in_one_line(name, check):
    with pytest.raises(ValueError, match=r"^(layer '.*'( \(.*\))?|example): ") as refused:
        gt.from_torch(module(ODD[name]), check=check)
    assert "\n" not in str(refused.value)


def test_what_depends_on_dtype_and_axes_follows_the_example():
    def forward(m, x):
        x = x if x.dtype == torch.float32 and x.ndim == 2 else x.float().flatten(1)
        return m.b(torch.relu(m.a(x)))

    assert gt.from_torch(module(forward)).activation == ("relu", "linear")
    assert gt.from_torch(module(forward), torch.randn(3, 2, 2)).sizes == (4, 4, 2)


class Critic(nn.Module):
    """Two inputs side by side, of which nobody knows the widths but who calls it."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.l1, self.l2 = nn.Linear(7, 8), nn.Linear(8, 1)

    def forward(self, state, action):
        return self.l2(F.relu(self.l1(torch.cat([state, action], dim=1))))


class Physics(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.net = nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Linear(8, 1))

    def forward(self, x, y, t):
        return self.net(torch.cat((x, y, t), -1))


@pytest.mark.parametrize(("kind", "widths"), [(Critic, (5, 2)), (Physics, (1, 1, 1))])
def test_inputs_side_by_side_are_one(kind, widths):
    made = kind().double()
    example = tuple(torch.randn(4, width, dtype=torch.float64) for width in widths)
    net = gt.from_torch(made, example)
    assert gt.from_torch(made) == net
    assert any("side by side" in note for note in net.notes)
    x = [one.clone().requires_grad_() for one in example]
    y = made(*x)
    cotangent = torch.randn(4, 1, dtype=torch.float64)
    y.backward(cotangent)
    together = np.ascontiguousarray(torch.cat(example, 1).numpy())
    assert np.abs(net.forward(together) - y.detach().numpy()).max() < tolerance("torch", "entries")
    dx = torch.cat([one.grad for one in x], 1).norm(dim=1).log2().numpy()
    trace = net.trace(together, cotangent=cotangent.numpy())
    assert np.abs(trace.log2_grad_input - dx).max() < tolerance("torch", "log2")
    for wrong in (example[0], example[:1], (*example, example[0])):
        with pytest.raises(ValueError, match=rf"example: expected a tuple of the module's {len(widths)} inputs"):
            gt.from_torch(made, wrong)
    with pytest.raises(ValueError, match="example: expected inputs of shape"):
        gt.from_torch(made, tuple(one[:, :, None] for one in example))


def test_inputs_that_are_not_side_by_side_are_refused():
    def turned(m, state, action):
        return m.l2(F.relu(m.l1(torch.cat([action, state], dim=1))))

    def scaled(m, state, action):
        return m.l2(F.relu(m.l1(torch.cat([state, 2 * action], dim=1))))

    for forward in (turned, scaled):
        with pytest.raises(ValueError, match=r"side by side only|further input"):
            gt.from_torch(type("Model", (Critic,), {"forward": forward})())


def test_threads_may_follow_modules_at_the_same_time():
    made = [module(lambda m, x: m.b(F.relu(m.a(x)))) for _ in range(3)]
    networks = []

    def follow(one):
        networks.extend(gt.from_torch(one) for _ in range(5))

    threads = [threading.Thread(target=follow, args=(one,)) for one in made]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(networks) == 15
    assert all(net == networks[0] for net in networks)
