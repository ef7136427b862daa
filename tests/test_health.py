"""Health by training: a seed's network, and what PyTorch's training comes to, are the same again."""

import json
import sys
from pathlib import Path

import pytest
from tolerances import FLOAT32, tolerance

import gradtrace as gt

torch = pytest.importorskip("torch")

ROOT = Path(__file__).resolve().parent.parent
LABELS = json.loads((ROOT / "bench" / "health" / "stacks.json").read_text(encoding="utf-8"))


@pytest.fixture
def health(monkeypatch):
    pytest.importorskip("sklearn")
    monkeypatch.setattr(sys, "path", [str(ROOT), *sys.path])
    from bench.health import drawn_stacks, training

    return drawn_stacks.drawn_stack, training.health


def test_every_verdict_is_in_both_halves():
    for odd in (0, 1):
        found = {verdict for seed, (verdict, _) in LABELS.items() if int(seed) % 2 == odd}
        assert found == {"healthy", "slow", "broken", "capacity"}


@pytest.mark.parametrize("seed", [2, 20])
def test_a_label_comes_again(health, seed):
    """One that trains at once, and one that no rate trains."""
    drawn_stack, trained = health
    drawn = drawn_stack(seed)
    verdict, steps = trained(drawn.stack, drawn.x, drawn.target, drawn.loss)
    assert verdict == LABELS[str(seed)][0]
    if steps is not None:
        assert abs(steps - LABELS[str(seed)][1]) <= tolerance("health", "steps", FLOAT32)


def verdict(stack, x, target, loss, **options):
    return [(one.kind, one.severity) for one in stack.trace(x, target=target, loss=loss, **options).diagnose()]


@pytest.mark.parametrize("seed", range(0, 80, 4))
def test_a_verdict_is_the_same_for_the_same_network(health, seed):
    """Samples in another order, given twice, as quantiles, in batches, in float64."""
    import numpy as np

    drawn = health[0](seed)
    x, target, loss = drawn.x, drawn.target, drawn.loss
    said = verdict(drawn.stack, x, target, loss)
    order = np.random.default_rng(seed).permutation(len(x))
    assert verdict(drawn.stack, x[order], target[order], loss) == said
    assert verdict(drawn.stack, np.concatenate([x, x]), np.concatenate([target, target]), loss) == said or len(x) < 16
    wide = drawn.stack.astype("float64")
    values = target if target.dtype.kind == "i" else target.astype("float64")
    assert verdict(wide, x.astype("float64"), values, loss) == said
    batches = [x[: len(x) // 3 + 1], x[len(x) // 3 + 1 :]] if len(x) > 2 else [x]
    targets = [target[: len(batches[0])], target[len(batches[0]) :]][: len(batches)]
    assert verdict(drawn.stack, batches, targets, loss) == said
    alarms = {kind for kind, severity in said if severity != "information"}
    rough = verdict(drawn.stack, x, target, loss, per_sample=False)
    assert {kind for kind, severity in rough if severity != "information"} == alarms


@pytest.mark.parametrize("seed", range(0, 80, 4))
def test_a_verdict_knows_nothing_of_the_scale_of_the_loss(health, seed):
    import numpy as np

    drawn = health[0](seed)
    gradient = np.random.default_rng(seed).standard_normal((len(drawn.x), drawn.stack.sizes[-1])).astype("float32")
    told = [
        [
            (one.kind, one.severity, one.layers)
            for one in drawn.stack.trace(drawn.x, cotangent=gradient * np.float32(k)).diagnose()
        ]
        for k in (1, 2.0**20, 2.0**-20)
    ]
    assert told[0] == told[1] == told[2]


def test_a_squared_loss_too_curved_for_any_usual_rate():
    """The head times 100: PyTorch's SGD at 0.001 is infinite within steps, and the finding names the layer."""
    import numpy as np

    draw = np.random.default_rng(0)
    x = draw.standard_normal((64, 16)).astype("float32")
    target = draw.standard_normal((64, 2)).astype("float32")
    stack = gt.Stack.random([16, 64, 64, 64, 2], "relu", "linear", init="he_normal", seed=0)
    assert stack.trace(x, target=target, loss="mse").diagnose().healthy
    large = stack.replaced(weights=[*stack.weights[:-1], stack.weights[-1] * np.float32(100)])
    finding = large.trace(x, target=target, loss="mse").diagnose().find("exploding")
    assert finding.severity == "warning"
    assert "oversteps" in finding.cause
    deep = gt.Stack.random([16] + [16] * 300 + [2], "linear", gain=8.0, seed=0).trace(x, target=target, loss="mse")
    assert "inf times" not in str(deep.diagnose())
    model = torch.nn.Sequential(
        *(layer for w in large.weights for layer in (torch.nn.Linear(*w.shape[::-1]), torch.nn.ReLU()))
    )[:-1]
    with torch.no_grad():
        for linear, w in zip(model[::2], large.weights, strict=True):
            linear.weight.copy_(torch.tensor(w))
            linear.bias.zero_()
    optimiser = torch.optim.SGD(model.parameters(), 1e-3, momentum=0.9)
    losses = []
    for _ in range(30):
        loss = torch.nn.functional.mse_loss(model(torch.tensor(x)), torch.tensor(target))
        losses.append(float(loss.detach()))
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    guess = float(target.var())
    assert not min(losses) < guess


def test_a_dead_network_is_broken(health):
    import numpy as np

    drawn_stack, trained = health
    drawn = drawn_stack(27)
    assert LABELS["27"][0] == "healthy"
    off = [np.full(len(w), -1e3, "float32") for w in drawn.stack.weights[:-1]]
    dead = drawn.stack.replaced(biases=[*off, None])
    assert trained(dead, drawn.x, drawn.target, drawn.loss)[0] == "broken"


RECURRENT = json.loads((ROOT / "bench" / "health" / "recurrent.json").read_text(encoding="utf-8"))


@pytest.fixture
def recurrent(monkeypatch):
    monkeypatch.setattr(sys, "path", [str(ROOT), *sys.path])
    from bench.health import drawn_recurrent, training_recurrent

    return drawn_recurrent, training_recurrent


def test_every_recurrent_verdict_is_in_both_halves():
    for odd in (0, 1):
        found = {verdict for seed, (verdict, _) in RECURRENT.items() if int(seed) % 2 == odd}
        assert found == {"healthy", "slow", "broken", "capacity"}


@pytest.mark.parametrize(("seed", "verdict"), [(20, "healthy"), (0, "broken")])
def test_a_recurrent_label_comes_again(recurrent, seed, verdict):
    """Classes that show at every step, beside weights that leave the gates alone, and weights that saturate them."""
    drawn = recurrent[0].drawn_recurrent(seed)
    found, steps = recurrent[1].recurrent_health(drawn.network, drawn.readout, drawn.task, drawn.fresh)
    assert found == verdict == RECURRENT[str(seed)][0]
    if steps is not None:
        assert abs(steps - RECURRENT[str(seed)][1]) <= tolerance("health", "steps", FLOAT32)


def test_sequences_learned_by_heart_are_not_trained(recurrent):
    """Labels of chance: a network learns sixteen of them, and none of others."""
    import numpy as np

    drawn, training = recurrent
    g = np.random.default_rng(0)
    task, fresh = (drawn.last_input(g, 6, samples) for samples in (16, 256))
    for one in (task, fresh):
        one.target = g.integers(0, 3, len(one.target))
    network, readout = drawn.gt.LSTM.random(4, 64, seed=0), drawn.gt.Stack.random([64, 3], activation="linear", seed=0)
    assert training._best(network, readout, task, task, "adam") is not None
    assert training._best(network, readout, task, fresh, "adam") is None
