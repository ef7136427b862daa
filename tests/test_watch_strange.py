"""Modules that are not what they seem: nothing is shown, or autograd's own gradient; and nothing of theirs is moved."""

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from cells_by_hand import BITS, F64, chain_gradients, gradients, same  # noqa: E402
from torch import nn  # noqa: E402
from torch.nn import functional as F  # noqa: E402, N812
from watched_models import INPUTS, Around, B, H, T, linear_sequence, rnn, watched_once  # noqa: E402

import gradtrace as gt  # noqa: E402


@pytest.mark.parametrize("shared", [False, True], ids=["one call", "two calls"])
def test_a_gradient_that_somebodys_hook_changed_is_the_changed_one(shared):
    """As clipping does it; of two calls there is no gradient of weights that would tell."""

    def use(module, x):
        y = module(x)[0]
        y.register_hook(lambda gradient: gradient.clamp(-0.1, 0.1) * 3)
        return (y - module(x.flip(0))[0])[-1] if shared else y[-1]

    model, x = Around(rnn("LSTM"), use), torch.randn(T, B, INPUTS, dtype=F64)
    trace = watched_once(model, x)
    seen = []
    model.inner.register_forward_hook(lambda *given: (given[2][0].retain_grad(), seen.append(given))[1])
    model.zero_grad()
    model(x).square().sum().backward()
    for place, (module, arguments, output) in enumerate(seen):
        name = f"inner#{place}" if shared else "inner"
        sequences, dy = list(arguments[0].detach().unbind(1)), list(output[0].grad.unbind(1))
        same(trace.inside[name], gradients(module, sequences, None, None, dy, None, None))


class Siamese(nn.Module):
    """One encoder for two inputs, of which no gradient tells apart what came by which call."""

    def __init__(self, encoder):
        super().__init__()
        self.encoder, self.scale = encoder.double(), nn.Parameter(torch.ones((), dtype=F64))

    def forward(self, x):
        a, b = (self.encoder(part) for part in x)
        return self.scale * ((a[0] - b[0]) if isinstance(a, tuple) else a - b)


def lstm_with_own_outputs():
    module = nn.LSTM(4, 5)
    module.register_forward_hook(lambda module, given, output: (3 * output[0], output[1]))
    return module


def chain_with(change):
    chain = nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 5), nn.Tanh(), nn.Linear(5, 3))
    change(chain)
    return chain


def of_itself(chain):
    own = chain[2].forward
    chain[2].forward = lambda x: 3 * own(x)


STRANGE = {
    "a recurrent module with outputs of somebody's": lstm_with_own_outputs,
    "a layer with outputs of somebody's": lambda: chain_with(
        lambda chain: chain[2].register_forward_hook(lambda module, given, output: 3 * output)
    ),
    "a layer with a forward pass of its own": lambda: chain_with(of_itself),
    "gradients changed in between": lambda: chain_with(
        lambda chain: chain[3].register_forward_hook(
            lambda module, given, output: output.register_hook(lambda gradient: 2 * gradient) and None
        )
    ),
}


@pytest.mark.parametrize("name", STRANGE)
def test_what_is_no_such_module_is_not_taken_for_one(name):
    """Nothing is shown, or what is shown is autograd's own gradient."""
    torch.manual_seed(0)
    model, x = Siamese(STRANGE[name]()), torch.randn(2, 6, 2, 4, dtype=F64)
    trace = watched_once(model, x)
    linear = {name: one for name, one in model.named_modules() if isinstance(one, nn.Linear)}
    outputs = {name: [] for name in linear}
    for own, module in linear.items():
        module.register_forward_hook(lambda *given, own=own: (given[2].retain_grad(), outputs[own].append(given[2]))[1])
    model.zero_grad()
    model(x).square().sum().backward()
    for name, inside in trace.inside.items():
        layers = [member for member in trace.inside.members[name] if member.partition("#")[0] in linear]
        assert layers, name
        for layer, member in enumerate(layers):
            own, _, call = member.partition("#")
            exact = outputs[own][int(call)].grad.flatten(0, -2).norm(dim=1).log2().numpy()
            assert np.abs(inside.log2_delta[layer] - exact).max() < BITS, member


def test_slopes_are_those_of_the_step():
    model = nn.Sequential(nn.Linear(4, 5), nn.PReLU(), nn.Linear(5, 5), nn.LeakyReLU(0.5), nn.Linear(5, 2)).double()
    optimiser, x = torch.optim.Adam(model.parameters(), 0.05), torch.randn(6, 4, dtype=F64)
    with gt.watch(model) as watched:
        for step in range(4):
            optimiser.zero_grad()
            model[3].negative_slope = 0.5 / 2**step
            model(x).square().sum().backward()
            trace = watched.trace()
            optimiser.step()
            again = watched.trace()
        with torch.no_grad():
            for module in model:
                for parameter in module.parameters():
                    parameter.copy_(watched._recorder.last.kept.weights[id(parameter)])
    exact = chain_gradients(model, x)
    for one in (trace, again):
        inside = one.inside["Sequential"]
        for layer, own in enumerate("024"):
            assert np.abs(inside.log2_delta[layer] - exact[own]).max() < BITS


def test_axes_and_numbers_that_a_stack_has_not_cut_a_chain():
    norms = [nn.Linear(6, 5), nn.BatchNorm1d(5), nn.Tanh(), nn.Linear(5, 5), nn.BatchNorm1d(5), nn.Linear(5, 2)]
    assert not watched_once(nn.Sequential(*norms).double().eval(), torch.randn(8, 5, 6, dtype=F64)).inside
    layers = nn.Sequential(*(nn.Linear(4, 4, dtype=torch.complex64) for _ in range(3)))
    assert not watched_once(layers, torch.randn(5, 4, dtype=torch.complex64), lambda y: y.abs().sum()).inside


def test_a_look_inside_moves_nothing_of_the_model():
    """Spectral norms iterate at every look at the weight, random parametrisations draw."""
    parametrized = torch.nn.utils.parametrizations

    class Noisy(nn.Module):
        def forward(self, weight):
            return F.dropout(weight, 0.3, self.training)

    def trained(look):
        torch.manual_seed(0)
        layers = [parametrized.spectral_norm(nn.Linear(4, 6)), nn.Tanh(), nn.Linear(6, 6), nn.Tanh(), nn.Linear(6, 1)]
        torch.nn.utils.parametrize.register_parametrization(layers[2], "weight", Noisy())
        model = nn.Sequential(*layers).double()
        optimiser, x = torch.optim.SGD(model.parameters(), 0.1), torch.randn(8, 4, dtype=F64)
        with gt.watch(model, inside="history" if look else False) as watched:
            for _ in range(4):
                optimiser.zero_grad()
                loss = model(x).square().mean()
                loss.backward()
                watched.trace(inside=look)
                optimiser.step()
        return loss.item(), torch.get_rng_state()

    (loss, state), (plain, plain_state) = trained(True), trained(False)
    assert loss == plain
    assert torch.equal(state, plain_state)


@pytest.mark.parametrize("norm", [nn.utils.spectral_norm, torch.nn.utils.parametrizations.spectral_norm])
def test_spectral_norms_are_those_of_the_step(norm):
    torch.manual_seed(0)
    model = nn.Sequential(norm(nn.Linear(4, 6)), nn.Tanh(), norm(nn.Linear(6, 3))).double()
    x, outputs = torch.randn(5, 4, dtype=F64), {}
    handles = [
        model[at].register_forward_hook(
            lambda *given, at=at: (given[2].retain_grad(), outputs.setdefault(at, given[2]))[0]
        )
        for at in (0, 2)
    ]
    with gt.watch(model) as watched:
        model(x).square().sum().backward()
        for handle in handles:
            handle.remove()
        early = watched.trace().inside["0"]
        with torch.no_grad():
            model(x)  # iterates once more
        late = watched.trace().inside["0"]
    for inside in (early, late):
        for layer, at in enumerate((0, 2)):
            exact = outputs[at].grad.norm(dim=1).log2().numpy()
            assert np.abs(inside.log2_delta[layer] - exact).max() < BITS


@pytest.mark.parametrize("change", ["roll", "numpy"])
def test_changes_that_count_no_version_are_seen(change):
    model, array = nn.LSTM(3, 4).double(), np.random.default_rng(0).normal(size=(5, 2, 3))
    x = torch.from_numpy(array)
    with gt.watch(model) as watched:
        model(x)[0].square().sum().backward()
        if change == "roll":
            model.weight_hh_l0.data.copy_(model.weight_hh_l0.data.roll(1, 0))
        else:
            array[:] = 1.0
        assert not watched.trace().inside


class OwnForward(nn.LSTM):
    def forward(self, batch):
        return super().forward(batch["x"])


def test_a_recurrent_module_with_its_own_forward_pass_is_said():
    x, traces = torch.randn(T, B, INPUTS, dtype=F64), []
    for kind, given in ((OwnForward, lambda x: {"x": 100 * x}), (nn.LSTM, lambda x: 100 * x)):
        torch.manual_seed(0)
        traces.append(
            watched_once(Around(kind(INPUTS, H).double(), lambda inner, x, given=given: inner(given(x))[0][-1]), x)
        )
    own, plain = traces
    assert not own.inside
    assert any(note.startswith("inner: not looked into, its forward pass is its own") for note in own.notes)
    assert own.figures("gain")[1] == pytest.approx(plain.figures("gain")[1], abs=BITS) or np.isnan(
        own.figures("gain")[1]
    )


def test_states_of_any_container_reach_an_own_forward_pass():
    from collections import namedtuple

    State = namedtuple("State", "h c")

    class Own(nn.LSTM):
        def forward(self, x, state):
            assert x.tag == "kept"
            return super().forward(x, (state.h, state.c))

    def use(module, x):
        x.tag = "kept"
        zeros = torch.zeros(1, B, H, dtype=F64)
        return module(x, State(zeros, zeros))[0][-1]

    watched_once(Around(Own(INPUTS, H).double(), use), torch.randn(T, B, INPUTS, dtype=F64))


def test_lazy_conjugates_and_negatives():
    x = torch.fft.fft(torch.randn(5, 4, dtype=F64)).conj().imag
    assert set(watched_once(linear_sequence(4, 5, 2), x).inside) == {"Sequential"}
