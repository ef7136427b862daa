"""Figures of the inputs of watched modules, and their gains."""

import math
import sys
from pathlib import Path

import pytest
from test_interop_watch_models import inputs
from tolerances import tolerance

import gradtrace as gt

torch = pytest.importorskip("torch")
from judged_models import watched  # noqa: E402

nn, F = torch.nn, torch.nn.functional

ROOT = Path(__file__).resolve().parent.parent
BITS = tolerance("torch", "log2", "float32")


@pytest.fixture
def drawn_model(monkeypatch):
    monkeypatch.setattr(sys, "path", [str(ROOT), *sys.path])
    from bench.health.drawn_models import drawn_model

    return drawn_model


# The figures --------------------------------------------------------------------------------------------------------


def test_figures_of_the_inputs_are_what_numpy_says():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(2, 3, 3), nn.ReLU(inplace=True), nn.Flatten(), nn.Linear(3 * 16, 4))
    x = torch.randn(5, 2, 6, 6) + 1
    trace = watched(model, lambda: model(x).square().mean())
    conv, relu, _, linear = trace.modules
    assert conv.log2_input == pytest.approx(x.double().norm().log2().item(), abs=BITS)
    assert (conv.rows, linear.rows) == (5 * 36, 5)
    apart = ((x - x.mean(0)).double().norm() / x.double().norm()) ** 2
    assert conv.distinct == pytest.approx(apart.item(), abs=BITS)
    assert (conv.weighs, relu.weighs, linear.weighs) == (True, False, True)
    y = model(x)
    (gradient,) = torch.autograd.grad(y.square().mean(), y)
    assert trace.log2_cotangent == pytest.approx(gradient.double().norm().log2().item(), abs=BITS)
    assert trace.along_outputs == pytest.approx(1.0, abs=BITS)  # 2 y / n
    turned = watched(model, lambda: (model(x) * gradient.flip(0)).sum())
    cosine = F.cosine_similarity(y.detach().flatten(), gradient.flip(0).flatten(), dim=0).item()
    assert turned.along_outputs == pytest.approx(cosine, abs=BITS)


def gains(model, loss):
    return {one.name: one.gain for one in watched(model, loss).modules}


def test_the_gain_of_a_module_is_its_own_where_branches_meet():
    """What the skip connection sends to the same tensor is not in it."""

    class Skip(nn.Module):
        def __init__(self):
            super().__init__()
            self.enter, self.branch = nn.Linear(6, 6), nn.Linear(6, 6)

        def forward(self, x):
            h = self.enter(x)
            return h + self.branch(h)

    torch.manual_seed(0)
    model, x, sent = Skip().double(), torch.randn(7, 6).double(), torch.randn(7, 6).double()
    found = gains(model, lambda: (model(x) * sent).sum())
    back = sent @ model.branch.weight.detach()
    assert found["branch"] == pytest.approx((back.norm() / sent.norm()).log2().item(), abs=BITS)
    assert torch.isnan(torch.tensor(found["enter"]))  # its input has no gradient


def test_gains_of_several_uses_outputs_and_overwritten_inputs():
    torch.manual_seed(0)
    attention = nn.MultiheadAttention(8, 2, batch_first=True)
    enter, act, head = nn.Conv1d(4, 8, 1), nn.ReLU(inplace=True), nn.Linear(8, 2)
    model, x, sent = nn.ModuleList([enter, act, attention, head]), torch.randn(3, 4, 5), torch.randn(3, 5, 8)

    def attended(h):
        return attention(h, h, h, need_weights=False)[0]

    found = gains(model, lambda: (attended(act(enter(x)).transpose(1, 2)) * sent).sum())
    h = F.relu(enter(x)).transpose(1, 2).detach().requires_grad_()
    (back,) = torch.autograd.grad((attended(h) * sent).sum(), h)
    # Query, key and value are one tensor, which three use.
    assert found["2"] == pytest.approx((back.norm() / sent.norm()).log2().item(), abs=BITS)
    assert found["1"] == pytest.approx(((back * (h > 0)).norm() / back.norm()).log2().item(), abs=BITS)


def test_a_gain_is_minus_infinity_where_nothing_comes_back():
    model = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 2))
    nn.init.constant_(model[0].bias, -100.0)
    found = gains(model, lambda: model(torch.randn(5, 4)).sum())
    assert found["1"] == -float("inf")


def test_gains_of_a_chain_add_up_to_what_became_of_the_gradient(drawn_model):
    drawn = drawn_model(0)
    modules = watched(drawn.model, drawn.loss).modules
    between = [one.gain for one in modules[1:]]
    assert sum(between) == pytest.approx(
        modules[0].log2_grad_output - modules[-1].log2_grad_output, abs=BITS * len(modules)
    )


def test_modules_without_rows_are_not_followed():
    model = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2))
    with gt.watch(model) as watcher:
        model(torch.zeros(0, 3)).sum().backward()
    assert watcher.trace().modules[0].rows == 0
    assert isinstance(watcher.trace().diagnose().findings, tuple)


def test_the_diagnosis_takes_the_calls_of_a_module_together():
    """A cell that forgets, in a loop: what is judged is the module, not its first call."""
    torch.manual_seed(0)
    enter, cell, head = nn.Linear(4, 4), nn.LSTMCell(4, 8), nn.Linear(8, 2)
    with gt.watch(nn.ModuleList([enter, cell, head])) as watched:
        state = None
        for t in range(30):
            state = cell(enter(inputs(4, seed=t).float()), state)
        head(state[0]).square().mean().backward()
    trace = watched.trace()
    assert [(one.name, one.call, one.calls) for one in trace.modules[:2]] == [("0#0", 0, 30), ("1#0", 0, 30)]
    assert trace.modules[-1].log2_grad_output - trace.modules[1].log2_grad_output > 15
    lost = [finding.evidence["log2_change"] for finding in trace.diagnose() if finding.kind == "vanishing"]
    assert all(change > -10 for change in lost)  # of the module as a whole; its first call alone lost 21 bits
    assert "#" not in str(trace.diagnose())
    with torch.no_grad():
        enter.weight[0, 0] = math.nan
    with gt.watch(nn.ModuleList([enter, head])) as watched:
        head(torch.cat([enter(inputs().float()), enter(inputs().float())], dim=1)).sum().backward()
    (finding,) = watched.trace().diagnose()
    assert (finding.kind, finding.layers) == ("forward_overflow", (0, 2))
