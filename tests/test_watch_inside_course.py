"""The insides of a watched model along training, where they are asked for."""

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from torch import nn  # noqa: E402

import gradtrace as gt  # noqa: E402


class Model(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.lstm = nn.LSTM(4, 16, batch_first=True)
        self.head = nn.Sequential(nn.Linear(16, 8), nn.Tanh(), nn.Linear(8, 2))

    def forward(self, x):
        return self.head(self.lstm(x)[0][:, -1])


def train(watched, steps, change=None):
    """Each step's own trace; `change` is called with the model before one."""
    model, traces = watched.model, []
    optimiser = torch.optim.SGD(model.parameters(), 0.05)
    for step in range(steps):
        if change is not None:
            change(step, model)
        optimiser.zero_grad()
        model(torch.randn(8, 60, 4)).square().mean().backward()
        traces.append(watched.trace())
        optimiser.step()
    return traces


def test_what_is_lost_inside_at_every_step():
    with gt.watch(Model(), inside="history") as watched:
        traces = train(watched, 5)
        within = watched.history
    history = watched.history
    assert set(history.inside) == {"lstm", "head"}
    course = history.inside["lstm"]
    for course in (history.inside["lstm"], within.inside["lstm"]):
        for step, trace in enumerate(traces):
            inside = trace.inside["lstm"]
            assert course.log2_first_over_last[step] == np.median(inside.log2_dh[0, 0] - inside.log2_dh[0, -1])
            assert course.forget_half_life[step] == inside.forget_half_life[0]
            assert course.findings[step] == inside.diagnose().kinds
    chain = history.inside["head"]
    assert np.isfinite(chain.log2_first_over_last).all()
    assert np.isnan(chain.forget_half_life).all()
    assert not history.notes


def test_the_first_step_at_which_a_module_forgets():
    def change(step, model):
        with torch.no_grad():
            model.lstm.bias_ih_l0[16:32] = 5.0 if step < 3 else -5.0

    with gt.watch(Model(), inside="history") as watched:
        train(watched, 6, change)
    assert watched.history.first("forgetting") == 3
    assert watched.history.findings()["forgetting"] == (3, 4, 5)


def test_nothing_is_looked_into_unless_asked():
    with gt.watch(Model()) as watched:
        train(watched, 2)
    assert not watched.history.inside
    assert watched.history.first("forgetting") is None
    with pytest.raises(ValueError, match="inside: expected True, False or 'history'"):
        gt.watch(Model(), inside="always")
    with pytest.raises(TypeError, match="inside"):
        gt.watch(Model(), inside=3)
