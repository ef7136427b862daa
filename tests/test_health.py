"""Health by training: a seed's network, and what PyTorch's training comes to, are the same again."""

import json
import sys
from pathlib import Path

import pytest
from tolerances import FLOAT32, tolerance

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
