"""Inside the recurrent modules of a watched model: figures against autograd, refusals, and what is kept."""

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from cells_by_hand import F64, expected, same  # noqa: E402
from tolerances import tolerance  # noqa: E402
from torch import nn  # noqa: E402
from torch.nn import functional as F  # noqa: E402, N812
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence  # noqa: E402
from watched_models import INPUTS, Around, B, H, T, last, linear_sequence, rnn, watched_once  # noqa: E402

import gradtrace as gt  # noqa: E402


def everything(module, x):
    y, state = module(x)
    states = state if isinstance(state, tuple) else (state,)
    return torch.cat([y.flatten(), *(part.flatten().sin() for part in states)])


def last_state(module, x):
    state = module(x)[1]
    return state[0] if isinstance(state, tuple) else state


KINDS = ["LSTM", "GRU", "RNN tanh", "RNN relu"]
USES = {"the last output": last, "outputs and states": everything, "the last state": last_state}


@pytest.mark.parametrize("use", USES)
@pytest.mark.parametrize("options", [{}, {"num_layers": 3}, {"num_layers": 2, "bidirectional": True}], ids=str)
@pytest.mark.parametrize("kind", KINDS)
def test_states_are_those_of_a_loop_of_cells(kind, options, use):
    model = Around(rnn(kind, **options), USES[use])
    x = torch.randn(T, B, INPUTS, dtype=F64)
    same(watched_once(model, x).inside["inner"], expected(model, "inner", x))


@pytest.mark.parametrize("kind", KINDS)
def test_batch_first_and_initial_states(kind):
    states = torch.randn(2, 1, B, H, dtype=F64)

    def use(module, x):
        return module(x, tuple(states) if kind == "LSTM" else states[0])[0][:, -1]

    model, x = Around(rnn(kind, batch_first=True, bias=False), use), torch.randn(B, T, INPUTS, dtype=F64)
    trace = watched_once(model, x).inside["inner"]
    same(trace, expected(model, "inner", x))
    assert trace.cotangent_at == "last"


@pytest.mark.parametrize("kind", KINDS)
def test_a_sequence_without_a_batch(kind):
    model, x = Around(rnn(kind, num_layers=2), everything), torch.randn(T, INPUTS, dtype=F64)
    same(watched_once(model, x).inside["inner"], expected(model, "inner", x))


@pytest.mark.parametrize("sorted_", [True, False], ids=["sorted", "in any order"])
@pytest.mark.parametrize("kind", KINDS)
def test_packed_sequences_keep_the_users_order(kind, sorted_):
    lengths = [7, 5, 5, 2] if sorted_ else [2, 7, 3, 6]

    def use(module, x):
        y, state = module(pack_padded_sequence(x, torch.tensor(lengths), enforce_sorted=sorted_))
        state = state[0] if isinstance(state, tuple) else state
        return torch.cat([pad_packed_sequence(y)[0].flatten(), state.flatten().sin()])

    model, x = Around(rnn(kind, num_layers=2, bidirectional=True), use), torch.randn(T, B, INPUTS, dtype=F64)
    trace = watched_once(model, x).inside["inner"]
    assert list(trace.lengths) == lengths
    same(trace, expected(model, "inner", x))


class Classifier(nn.Module):
    """As tutorials write it."""

    def __init__(self, forget=None, units=64):
        super().__init__()
        torch.manual_seed(0)
        self.embedding, self.lstm = nn.Embedding(40, 16), nn.LSTM(16, units, batch_first=True)
        self.fc = nn.Linear(units, 4)
        if forget is not None:
            with torch.no_grad():
                self.lstm.bias_ih_l0[units : 2 * units], self.lstm.bias_hh_l0[units : 2 * units] = forget, 0

    def forward(self, tokens):
        return self.fc(self.lstm(self.embedding(tokens))[0][:, -1, :])


@pytest.mark.parametrize(("forget", "lost"), [(None, -132), (5.0, -1)])
def test_a_classifier_of_200_steps(forget, lost):
    """The whole loss of 200 steps, as from_torch of the module alone has it, and named only where the gates forget."""
    model = Classifier(forget)
    tokens, labels = torch.randint(0, 40, (8, 200)), torch.randint(0, 4, (8,))
    with gt.watch(model) as watched:
        F.cross_entropy(model(tokens), labels).backward()
        trace = watched.trace()
    inside = trace.inside["lstm"]
    of_module = gt.from_torch(model.lstm).trace(model.embedding(tokens).detach().numpy(), cotangent_seed=1)
    for one in (inside, of_module):
        assert abs(np.median(one.log2_dh[0, 0] - one.log2_dh[0, -1]) - lost) < tolerance("torch", "inside changed")
    assert ("forgetting" in inside.diagnose().kinds) == (forget is None)
    quoted = trace.diagnose().find("forgetting")
    assert (quoted is not None) == (forget is None)
    if quoted is not None:
        assert quoted.severity == "information"
        assert quoted.part == "lstm"


def test_gradients_that_float32_reads_as_zero_are_there():
    model = Classifier(-5.0)
    trace = watched_once(model, torch.randint(0, 40, (4, 200))).inside["lstm"]
    assert trace.dtype == "float32"
    assert trace.log2_dh[0, 0].max() < -300
    assert np.isfinite(trace.log2_dh).all()


def shut(kind):
    """Recurrent modules that pass nothing: dead, saturated, or behind a gate that never opens."""
    module = {"dead": nn.RNN(INPUTS, H, nonlinearity="relu"), "flat": nn.RNN(INPUTS, H), "output": nn.LSTM(INPUTS, H),
              "input": nn.LSTM(INPUTS, H), "update": nn.GRU(INPUTS, H)}[kind]  # fmt: skip
    rows, value = {"dead": (slice(None), -100.0), "flat": (slice(None), 50.0), "output": (slice(3 * H, None), -200.0),
                   "input": (slice(0, H), -200.0), "update": (slice(H, 2 * H), 60.0)}[kind]  # fmt: skip
    with torch.no_grad():
        module.bias_ih_l0[rows] = value
    return module


@pytest.mark.parametrize("kind", ["dead", "flat", "output", "input", "update"])
def test_a_module_that_passes_nothing_is_critical_whatever_the_task(kind):
    torch.manual_seed(0)
    trace = watched_once(Around(shut(kind), last).float(), torch.randn(20, B, INPUTS), lambda y: y.sum())
    found = trace.diagnose()
    assert found.severity == "critical"
    assert found[0].part == "inner"
    assert "whatever the task" in found[0].cause


# What is kept --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("optimiser", [torch.optim.SGD, torch.optim.Adam])
def test_the_weights_are_those_of_the_step_whatever_an_optimiser_did_since(optimiser):
    model = Classifier(units=8).double()
    tokens, labels = torch.randint(0, 40, (4, 9)), torch.randint(0, 4, (4,))
    chosen = optimiser(model.parameters(), lr=0.5)
    with gt.watch(model) as watched:
        F.cross_entropy(model(tokens), labels).backward()
        before = watched.trace()
        chosen.step()
        after = watched.trace()
        chosen.step()
        once_more = watched.trace()
    assert before.inside["lstm"] == after.inside["lstm"] == once_more.inside["lstm"]
    assert not once_more.notes


@pytest.mark.parametrize("change", ["in place", "by data", "input"])
def test_what_changed_since_is_refused(change):
    model, x = nn.LSTM(3, 4).double(), torch.randn(5, 2, 3, dtype=F64)
    with gt.watch(model) as watched:
        model(x)[0].square().sum().backward()
        if change == "input":
            x.zero_()
        else:
            with torch.no_grad():
                weight = model.weight_hh_l0 if change == "in place" else model.weight_hh_l0.data
                weight.add_(1e-6)
        trace = watched.trace()
    assert not trace.inside
    assert "call trace() before" in trace.notes[-1]
    with pytest.raises(KeyError, match=r"notes"):
        trace.inside["LSTM"]


def test_each_backward_pass_has_its_own_inside():
    model, x = nn.LSTM(3, 4).double(), torch.randn(5, 2, 3, dtype=F64)
    with gt.watch(model) as watched:
        y = model(x)[0]
        y[-1].sum().backward(retain_graph=True)
        y[0].square().sum().backward()
        first, second = (watched.trace(backward=k).inside["LSTM"] for k in range(2))
    assert first.cotangent_at == "last"
    assert np.isneginf(second.log2_dh[0, 2:]).all()
    assert np.isfinite(second.log2_dh[0, 1]).all()


def test_gradients_of_gradients_are_not_followed_inside():
    model, x = linear_sequence(2, 8, 8, 1), torch.randn(5, 2, dtype=F64, requires_grad=True)
    with gt.watch(model) as watched:
        y = model(x)
        (slope,) = torch.autograd.grad(y.sum(), x, create_graph=True)
        (slope.square().sum() + y.square().sum()).backward()
        traces = [watched.trace(backward=k) for k in range(2)]
    assert set(traces[0].inside) == {"Sequential"}
    assert not traces[1].inside
    assert any("not looked into" in note for note in traces[1].notes)


def test_the_bound_is_kept_and_said():
    model, x = nn.LSTM(3, 4), torch.randn(50, 20, 3)
    with gt.watch(model, most_bytes=1000) as watched:
        model(x)[0].sum().backward()
        trace = watched.trace()
        assert watched._recorder.last.kept._bytes <= 1000
    assert not trace.inside
    assert "more than a watch keeps" in " ".join(trace.notes)
    with gt.watch(model, inside=False) as watched:
        model(x)[0].sum().backward()
        assert watched._recorder.last.kept is None
        assert not watched.trace().inside


@pytest.mark.parametrize("options", [{"proj_size": 2}, {"num_layers": 2, "dropout": 0.5}], ids=str)
def test_what_cannot_be_traced_is_said(options):
    trace = watched_once(Around(rnn("LSTM", **options), last), torch.randn(T, B, INPUTS, dtype=F64))
    assert not trace.inside
    assert any("inner" in note and "not looked into" in note for note in trace.notes)


@pytest.mark.parametrize("how", ["module", "autocast"])
def test_half_precision_is_traced_in_float32_and_said(how):
    model, x = Around(rnn("LSTM"), last).float(), torch.randn(T, B, INPUTS)
    if how == "module":
        model, x = model.bfloat16(), x.bfloat16()
    with torch.autocast("cpu", torch.bfloat16, enabled=how == "autocast"):
        trace = watched_once(model, x, lambda y: y.float().square().sum())
    assert trace.inside["inner"].dtype == "float32"
    assert any("ran in bfloat16" in note for note in trace.notes)


@pytest.mark.parametrize("reentrant", [True, False])
def test_a_checkpoint_computes_again_and_is_looked_into(reentrant):
    from torch.utils.checkpoint import checkpoint

    def use(module, x):
        return checkpoint(lambda given: module(given)[0], x, use_reentrant=reentrant)[-1]

    model, x = Around(rnn("LSTM"), use), torch.randn(T, B, INPUTS, dtype=F64)
    plain = Around(model.inner, last)
    plain.below = model.below
    same(watched_once(model, x).inside["inner"], expected(plain, "inner", x))


def test_parametrised_weights_are_taken_as_the_forward_pass_had_them():
    model = Around(torch.nn.utils.parametrizations.weight_norm(rnn("LSTM"), "weight_hh_l0"), last)
    x = torch.randn(T, B, INPUTS, dtype=F64)
    optimiser = torch.optim.SGD(model.parameters(), 0.1)
    norms = expected(model, "inner", x)
    model.zero_grad()
    with gt.watch(model) as watched:
        model(x).square().sum().backward()
        optimiser.step()
        same(watched.trace().inside["inner"], norms)


@pytest.mark.parametrize("kind", ["RNN", "GRU"])
def test_a_chaotic_network_is_traced_and_said_to_be_one(kind):
    torch.manual_seed(0)
    model = getattr(nn, kind)(4, 64)
    with torch.no_grad():
        nn.init.orthogonal_(model.weight_hh_l0)
        model.weight_hh_l0 *= 4 if kind == "RNN" else 10
    trace = watched_once(model, torch.randn(150, 8, 4), lambda out: out[0][-1].square().sum())
    inside = trace.inside[kind]
    assert np.median(inside.log2_dh[0, 0] - inside.log2_dh[0, -1]) > 20
    assert any("rounding" in note for note in trace.notes)
    assert "exploding" in inside.diagnose().kinds


def test_watching_changes_no_number():
    model, x = Classifier(units=8).double(), torch.randint(0, 40, (3, 6))
    model(x).square().sum().backward()
    plain = [parameter.grad.clone() for parameter in model.parameters()]
    model.zero_grad()
    watched_once(model, x)
    assert all(torch.equal(a, b.grad) for a, b in zip(plain, model.parameters(), strict=True))
