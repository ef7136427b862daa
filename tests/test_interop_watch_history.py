"""The course of a watched training run: rows equal to each step's trace, within bounds, whatever the loop does."""

import math
from dataclasses import asdict
from itertools import pairwise

import numpy as np
import pytest
from tolerances import tolerance

import gradtrace as gt

torch = pytest.importorskip("torch")
nn = torch.nn


def mlp(depth=2, width=6):
    torch.manual_seed(0)
    layers = [part for _ in range(depth) for part in (nn.Linear(width, width), nn.Tanh())]
    return nn.Sequential(*layers, nn.Linear(width, 2))


def train(model, watched, steps, seed=1, width=6, every=lambda step: None):
    """Some steps of SGD; the trace of each."""
    generator, traces = torch.Generator().manual_seed(seed), []
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for step in range(steps):
        optimizer.zero_grad()
        watched.loss(model(torch.randn(5, width, generator=generator)).square().mean()).backward()
        traces.append(watched.trace())
        optimizer.step()
        every(step)
    return traces


def same_modules(first, second):
    assert len(first.modules) == len(second.modules)
    for one, other in zip(first.modules, second.modules, strict=True):
        for name, value in asdict(one).items():
            there = getattr(other, name)
            assert type(there) is type(value), name
            assert there == value or (math.isnan(value) and math.isnan(there)), (one.name, name)


def test_every_row_is_the_trace_of_its_step():
    model = mlp()
    lengths = []
    with gt.watch(model) as watched:
        traces = train(model, watched, 12, every=lambda step: lengths.append(len(watched.history)))
    history = watched.history
    assert lengths == list(range(1, 13))
    assert len(history) == 12
    assert history.steps.tolist() == list(range(12))
    assert history.names == traces[0].names
    assert (history.recorded, history.stride, history.notes) == (12, 1, ())
    for index, trace in enumerate(traces):
        again = history.trace(index)
        same_modules(again, trace)
        assert (again.step, again.log2_cotangent, again.along_outputs) == (
            index,
            trace.log2_cotangent,
            trace.along_outputs,
        )
    for name in ("log2_grad_output", "gain", "weighs", "entries"):
        expected = np.array([trace.figures(name) for trace in traces])
        assert history.figures(name).shape == (12, 5)
        np.testing.assert_array_equal(history.figures(name), expected)


def test_a_history_stays_as_it_was_and_cannot_be_written():
    model = mlp()
    with gt.watch(model) as watched:
        train(model, watched, 3)
        first = watched.history
        train(model, watched, 2)
    assert (len(first), len(watched.history)) == (3, 5)
    for array in (first.steps, first.loss, first.figures("gain")):
        with pytest.raises(ValueError, match="read-only"):
            array[0] = 0


def test_the_whole_course_stays_within_bounds(monkeypatch):
    from gradtrace.watch import history as room

    monkeypatch.setattr(room, "_MOST_ROWS", 50)
    monkeypatch.setattr(room, "_FEWEST_STEPS", 4)
    model = mlp()
    most = []
    with gt.watch(model) as watched:
        train(model, watched, 101, every=lambda step: most.append(len(watched.history)))
    history = watched.history
    assert max(most) <= 12  # 50 rows of 5 modules, the newest step and the one that is not over
    assert history.stride == 16
    assert history.steps.tolist() == [0, 16, 32, 48, 64, 80, 96, 100]
    assert history.recorded == 101
    assert history.notes == ("101 steps were recorded, 8 are kept: every 16 and the newest",)
    assert "every 16" in str(history)


def test_the_first_and_the_newest_step_are_there_at_any_time(monkeypatch):
    from gradtrace.watch import history as room

    monkeypatch.setattr(room, "_MOST_ROWS", 30)
    monkeypatch.setattr(room, "_FEWEST_STEPS", 2)
    model = mlp()

    def ends(step):
        kept = watched.history.steps.tolist()
        assert (kept[0], kept[-1]) == (0, step)
        assert set(np.diff(kept[:-1])) <= {watched.history.stride}

    with gt.watch(model) as watched:
        train(model, watched, 70, every=ends)


class Changing(nn.Module):
    """Calls what the step asks for."""

    def __init__(self):
        super().__init__()
        self.first, self.second, self.last = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 1)
        self.asked = ()

    def forward(self, x):
        for name in self.asked:
            x = torch.tanh(getattr(self, name)(x))
        return self.last(x)


def test_modules_come_and_go_and_are_called_again():
    model = Changing()
    asked = [("first",), ("first", "second"), ("first", "first"), ("second", "first"), ()]
    traces = []
    with gt.watch(model) as watched:
        for model.asked in asked:
            model.zero_grad()
            model(torch.randn(3, 4)).sum().backward()
            traces.append(watched.trace())
    history = watched.history
    assert set(history.names) == {"first", "second", "last", "first#0", "first#1"}
    assert history.names[-1] == "last"
    for index, trace in enumerate(traces):
        same_modules(history.trace(index), trace)
        assert history.trace(index).names == trace.names
    called = history.figures("calls")[:, history.names.index("first#1")]
    np.testing.assert_array_equal(called, [np.nan, np.nan, 2, np.nan, np.nan])
    assert str(history)


def test_steps_without_a_backward_pass_have_no_row():
    model = mlp()
    with gt.watch(model) as watched:
        assert len(watched.history) == 0
        assert "No recorded step yet" in str(watched.history)
        model(torch.randn(5, 6)).sum()
        assert len(watched.history) == 0
        with torch.no_grad():
            model(torch.randn(5, 6))
        model(torch.randn(5, 6)).sum().backward()
        with pytest.raises(RuntimeError, match="once more"):
            model(torch.randn(5, 6)).sum().backward(gradient=fails_once(model))
        model(torch.randn(5, 6)).sum().backward()
    assert watched.history.recorded == 2
    assert np.isfinite(watched.history.figures("log2_grad_output")).all()


def fails_once(model):
    handle = model[0].weight.register_hook(lambda gradient: fail(handle))


def fail(handle):
    handle.remove()
    raise RuntimeError("once more")


def test_every_second_step_and_a_watch_that_opens_again():
    model = mlp()
    watched = gt.watch(model, every=2)
    for _ in range(2):
        with watched:
            for _ in range(4):
                model.zero_grad()
                model(torch.randn(5, 6)).sum().backward()
    assert watched.history.steps.tolist() == [0, 2, 4, 6]


def test_of_several_passes_the_one_that_comes_to_parameters_counts():
    model = mlp()
    x = torch.randn(5, 6, requires_grad=True)
    with gt.watch(model) as watched:
        (slope,) = torch.autograd.grad(model(x).sum(), x, create_graph=True)
        slope.square().mean().backward()
        model(x).sum().backward()
        y = model(x)
        y[:, 0].sum().backward(retain_graph=True)
        y[:, 1].sum().backward()
        torch.autograd.grad(model(x).sum(), x)
    history = watched.history
    assert history.backward.tolist() == [1, 0, 0, 0]
    assert history.backwards.tolist() == [2, 1, 2, 1]
    assert history.order.tolist() == [2, 1, 1, 1]
    weights = history.figures("log2_grad_weight")[:, 0]
    assert np.isfinite(weights[:3]).all()
    assert math.isnan(weights[3])


class WithLoss(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = nn.Linear(3, 2)

    def forward(self, x):
        y = self.inner(x)
        return {"loss": y.square().mean(), "logits": y}


def test_the_loss_is_what_the_model_returns_or_is_told():
    model, losses = WithLoss(), []
    with gt.watch(model) as watched:
        for told in (None, 3, None, np.float32(0.5), torch.tensor([2.0])):
            out = model(torch.randn(4, 3))
            losses.append(out["loss"].item() if told is None else float(told))
            if told is not None:
                assert watched.loss(told) is told
            out["loss"].backward()
            with torch.no_grad():
                out["loss"].mul_(0)  # the history has a number of its own
    assert watched.history.loss.tolist() == losses
    with gt.watch(model.inner) as watched:
        model(torch.randn(4, 3))["loss"].backward()
    assert np.isnan(watched.history.loss).all()


def test_of_several_numbers_the_first_is_the_loss():
    model = nn.Linear(3, 2)
    both = nn.ModuleList([model])
    both.forward = lambda x: (model(x).mean(), model(x), model(x).square().mean())
    with gt.watch(both) as watched:
        loss, _, other = both(torch.randn(4, 3))
        (loss + other).backward()
    assert watched.history.loss.tolist() == [loss.item()]


def test_a_cross_entropy_is_told_from_the_gradient_of_the_logits():
    model, losses = mlp(), []
    with gt.watch(model) as watched:
        for target in (torch.tensor([0, 1, 1, 0, 1]), torch.tensor([1, 1, 1, 0, 0])):
            loss = nn.functional.cross_entropy(model(torch.randn(5, 6)), target)
            loss.backward()
            losses.append(loss.item())
        (2 * nn.functional.cross_entropy(model(torch.randn(5, 6)), target)).backward()
        watched.loss(nn.functional.cross_entropy(model(torch.randn(5, 6)), target)).backward()
        watched.loss(7.0)
    np.testing.assert_allclose(watched.history.loss[:2], losses, rtol=tolerance("torch", "answers"))
    assert math.isnan(watched.history.loss[2])
    assert watched.history.loss[3] == 7


@pytest.mark.parametrize("value", [None, "1", torch.ones(2), True, [1.0], torch.ones((), dtype=torch.complex64)])
def test_what_is_no_loss_is_refused(value):
    model = mlp()
    with gt.watch(model) as watched:
        model(torch.randn(5, 6)).sum().backward()
        with pytest.raises(TypeError, match=r"^value: expected one number, got "):
            watched.loss(value)


def test_a_loss_needs_a_step():
    with (
        gt.watch(mlp()) as watched,
        pytest.raises(RuntimeError, match="loss: expected a forward pass of the model within the watch"),
    ):
        watched.loss(1.0)
    model = mlp()
    with gt.watch(model) as watched:
        train(model, watched, 1)
    with pytest.raises(RuntimeError, match=r"got a step that is over; tell it within the context"):
        watched.loss(1.0)


def test_findings_and_the_first_step_of_each():
    model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
    torch.manual_seed(0)
    with gt.watch(model) as watched:
        for step in range(6):
            if step == 3:
                with torch.no_grad():
                    model[0].bias.fill_(-1e3)
            model.zero_grad()
            model(torch.randn(16, 4)).square().sum().backward()
    history = watched.history
    assert history.first("dead_units") == 3
    assert history.findings()["dead_units"] == (3, 4, 5)
    assert history.first("exploding") is None
    with pytest.raises(ValueError, match=r"^kind: expected one of data, "):
        history.first("vanish")


def test_numbers_that_are_none_are_in_the_history():
    model = mlp()
    with gt.watch(model) as watched:
        model(torch.full((5, 6), math.nan)).sum().backward()
        model(torch.randn(5, 6)).sum().backward()
    history = watched.history
    assert np.isposinf(history.figures("log2_output")[0]).all()
    assert history.first("forward_overflow") == 0
    assert history.findings()["forward_overflow"] == (0,)
    assert str(history)


def test_figures_and_indices_are_checked():
    model = mlp()
    with gt.watch(model) as watched:
        train(model, watched, 2)
    history = watched.history
    with pytest.raises(ValueError, match=r"^name: expected one of log2_grad_output, "):
        history.figures("grad")
    with pytest.raises(TypeError, match=r"^figure: expected one of log2_grad_output, "):
        history.plot(3)
    with pytest.raises(ValueError, match=r"^index: expected 0 to 1, got 2"):
        history.trace(2)


def test_the_map_of_modules_and_steps():
    plt = pytest.importorskip("matplotlib.pyplot")
    model = mlp()
    with gt.watch(model) as watched:
        train(model, watched, 4)
    history = watched.history
    for figure, rows in (("log2_grad_output", 5), ("log2_grad_weight", 3), ("dead", 5)):
        ax = history.plot(figure)
        assert ax.get_xlabel() == "step"
        (image,) = ax.get_images()
        assert image.get_array().shape == (rows, 4)
        assert len(ax.get_yticks()) == rows
        plt.close(ax.figure)
    with pytest.raises(ValueError, match="history: expected a step"):
        gt.watch(model).history.plot()


@pytest.mark.parametrize("depth", [4, 9, 12, 40])
def test_names_beside_the_map_stand_apart(depth):
    plt = pytest.importorskip("matplotlib.pyplot")
    model = nn.Sequential(*(nn.Linear(4, 4) for _ in range(depth)))
    with gt.watch(model) as watched:
        model(torch.ones(2, 4)).sum().backward()
    figure, ax = plt.subplots(figsize=(7, 3))
    watched.history.plot(ax=ax)
    figure.canvas.draw()
    boxes = [label.get_window_extent() for label in ax.get_yticklabels()]
    assert len(boxes) >= 4
    assert all(below.y1 <= above.y0 + 1 for below, above in pairwise(boxes))  # a pixel of what is no ink
    plt.close(figure)
