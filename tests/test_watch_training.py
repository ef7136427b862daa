"""A watch around a whole training loop: what interrupts it, what wraps the model, what it costs in memory."""

import gc
import math
import tracemalloc
import warnings
import weakref
from collections import deque

import numpy as np
import pytest
from tolerances import tolerance

import gradtrace as gt

torch = pytest.importorskip("torch")
nn = torch.nn
BITS = tolerance("torch", "log2")
FIGURES = ("log2_grad_output", "log2_grad_weight", "log2_output", "log2_weight", "gain")


def batch(step, samples=6, width=5):
    generator = np.random.default_rng(step)
    return torch.tensor(generator.standard_normal((samples, width)))


def mlp(seed=0, width=5, outputs=2):
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Linear(width, 8), nn.Tanh(), nn.Sequential(nn.Linear(8, 8), nn.ReLU()), nn.Linear(8, outputs)
    ).double()


def by_hand(model, loss):
    """log2 of the norms of dL/d(output) and of the weight gradient of every module without children, by autograd."""
    outputs, handles = {}, []
    for name, module in model.named_modules():
        if not list(module.children()):
            handles.append(module.register_forward_hook(lambda _, x, y, name=name: outputs.__setitem__(name, y)))
    value = loss(model)
    for handle in handles:
        handle.remove()
    parameters = dict(model.named_parameters())
    given = torch.autograd.grad(value, [*outputs.values(), *parameters.values()])
    norms = {name: log2(g.norm()) for name, g in zip(outputs, given, strict=False)}
    owned = {}
    for name, gradient in zip(parameters, given[len(outputs) :], strict=True):
        owned.setdefault(name.rpartition(".")[0], []).append(gradient.flatten())
    return norms, {name: log2(torch.cat(parts).norm()) for name, parts in owned.items()}


def log2(norm):
    return float(norm.log2())


def agrees(history, index, expected):
    norms, weights = expected
    for name in norms:
        column = history.names.index(name)
        assert history.figures("log2_grad_output")[index, column] == pytest.approx(norms[name], abs=BITS), name
        got = history.figures("log2_grad_weight")[index, column]
        assert got == pytest.approx(weights.get(name, math.nan), abs=BITS, nan_ok=True), name


def same(first, second, names=FIGURES):
    assert first.names == second.names
    for name in names:
        np.testing.assert_allclose(first.figures(name), second.figures(name), atol=BITS, rtol=0, err_msg=name)


def squares(step):
    return lambda model: model(batch(step)).square().mean()


def test_what_is_watched_along_a_loop_equals_autograd_at_any_step():
    model = mlp()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    chosen = sorted(np.random.default_rng(0).choice(200, 12, replace=False).tolist())
    expected, losses = {}, []
    watched = gt.watch(model)
    for step in range(200):
        if step in chosen:
            expected[step] = by_hand(model, squares(step))
        with watched:  # again and again, as a loop with checks between its steps does
            optimizer.zero_grad()
            loss = watched.loss(squares(step)(model))
            loss.backward()
            losses.append(loss.item())
            optimizer.step()
    history = watched.history
    assert history.steps.tolist() == list(range(200))
    assert history.loss.tolist() == losses
    for step, norms in expected.items():
        agrees(history, step, norms)


class Failing(nn.Module):
    """Passes on, or raises where it is told to."""

    def __init__(self):
        super().__init__()
        self.at = ""

    def forward(self, x):
        if self.at == "forward":
            raise ValueError("by hand")
        if self.at == "backward":
            x.register_hook(self.fail)
        return x * 1

    def fail(self, gradient):
        raise ValueError("by hand")


@pytest.mark.parametrize("at", ["forward", "backward", "optimiser"])
def test_a_step_that_an_exception_ends_leaves_the_course_whole(at):
    def run(fails):
        model = mlp()
        model.append(Failing())
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        handle = None
        with gt.watch(model) as watched:
            for step in range(6):
                failing = step in fails
                model[-1].at = at if failing else ""
                if failing and at == "optimiser":
                    handle = optimizer.register_step_pre_hook(lambda *_: model[-1].fail(None))
                optimizer.zero_grad()
                try:
                    squares(step)(model).backward()
                    optimizer.step()
                except ValueError:
                    assert failing
                    continue
                finally:
                    if handle is not None:
                        handle.remove()
        return watched.history

    whole, broken = run(()), run((5,))
    kept = 6 if at == "optimiser" else 5  # whose gradients were all there
    assert len(broken) == kept
    for name in FIGURES:
        np.testing.assert_array_equal(broken.figures(name), whole.figures(name)[:kept])
    assert len(run((1, 3))) == (6 if at == "optimiser" else 4)
    assert len(run(range(6))) == (6 if at == "optimiser" else 0)


def test_two_optimisers_and_networks_that_train_against_each_other():
    maker, judge = mlp(1, outputs=5), mlp(2, outputs=1)
    both = nn.ModuleDict({"maker": maker, "judge": judge})
    makes, judges = (torch.optim.SGD(one.parameters(), lr=0.05) for one in (maker, judge))
    expected = []

    def judged(step):
        return lambda model: (judge(batch(step)) - judge(maker(batch(step + 50)).detach())).mean()

    def made(step):
        return lambda model: -judge(maker(batch(step + 50))).mean()

    with gt.watch(both) as watched:
        for step in range(8):
            judges.zero_grad()
            judged(step)(both).backward()
            judges.step()
            with pause(watched):
                expected.append(by_hand(both, made(step)))
            makes.zero_grad()
            made(step)(both).backward()
            makes.step()
    history = watched.history
    assert len(history) == 16
    for index, norms in enumerate(expected):
        agrees(history, 2 * index + 1, norms)


class pause:  # noqa: N801 (a context, as those of the standard library)
    """What runs in it is not heard."""

    def __init__(self, watched):
        self.recorder = watched._recorder

    def __enter__(self):
        self.recorder.is_open = False

    def __exit__(self, *error):
        self.recorder.is_open = True


def test_micro_batches_are_a_row_each_and_gradients_are_not_summed():
    model, expected = mlp(), []
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    watched = gt.watch(model)
    for step in range(4):
        optimizer.zero_grad()
        for part in range(3):
            value = lambda one, part=part, step=step: squares(10 * step + part)(one) / 3  # noqa: E731
            expected.append(by_hand(model, value))
            with watched:
                watched.loss(value(model)).backward()
        optimizer.step()
    history = watched.history
    assert len(history) == 12
    for index, norms in enumerate(expected):
        agrees(history, index, norms)


class Checkpointed(nn.Module):
    def __init__(self, kind):
        super().__init__()
        torch.manual_seed(0)
        self.enter, self.block, self.leave = nn.Linear(5, 8), nn.Sequential(nn.Linear(8, 8), nn.Tanh()), nn.Linear(8, 2)
        self.kind = kind

    def forward(self, x):
        x = self.enter(x)
        for _ in range(2):
            if self.kind == "none":
                x = self.block(x)
            else:
                x = torch.utils.checkpoint.checkpoint(self.block, x, use_reentrant=self.kind == "reentrant")
        return self.leave(x)


def trained(model, steps=5, **options):
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with gt.watch(model, **options) as watched:
        for step in range(steps):
            optimizer.zero_grad()
            squares(step)(model).backward()
            optimizer.step()
    return watched.history


@pytest.mark.parametrize("kind", ["reentrant", "not reentrant"])
def test_checkpoints_leave_the_same_history(kind):
    plain, again = trained(Checkpointed("none").double()), trained(Checkpointed(kind).double())
    assert plain.names[1:3] == ("block.0#0", "block.1#0")
    same(again, plain)


def test_a_compiled_part_is_one_row_and_the_history_says_so():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = mlp()
        model[2] = torch.compile(model[2], backend="eager")
        history = trained(model)
    assert history.names == ("0", "1", "2", "3")
    assert history.kinds[2] == "OptimizedModule"
    assert "2 (OptimizedModule): seen as a whole" in history.notes[0]
    whole = trained(mlp())
    for name, other in (("0", "0"), ("2", "2.1"), ("3", "3")):
        np.testing.assert_allclose(
            history.figures("log2_grad_output")[:, history.names.index(name)],
            whole.figures("log2_grad_output")[:, whole.names.index(other)],
            atol=BITS,
        )


class Replicas(nn.Module):
    """Runs halves of the batch through shallow copies, as DataParallel does with devices."""

    def __init__(self, module):
        super().__init__()
        self.module = module

    def forward(self, x):
        return torch.cat([replica(part) for replica, part in zip(self.copies(), x.chunk(2), strict=True)])

    def copies(self):
        for _ in range(2):
            copy = self.module._replicate_for_data_parallel()
            for name, child in self.module.named_children():
                replica = child._replicate_for_data_parallel()
                for own, parameter in child.named_parameters(recurse=False):
                    setattr(replica, own, parameter)
                copy._modules[name] = replica
            yield copy


def test_wrappers_leave_the_history_of_the_model():
    torch.manual_seed(0)
    plain = nn.Sequential(nn.Linear(5, 8), nn.Tanh(), nn.Linear(8, 2)).double()
    start = {name: values.clone() for name, values in plain.state_dict().items()}
    expected = trained(plain)
    plain.load_state_dict(start)
    wrapped = trained(nn.DataParallel(plain))
    assert wrapped.names == tuple(f"module.{name}" for name in expected.names)
    for name in FIGURES:
        np.testing.assert_array_equal(wrapped.figures(name), expected.figures(name))
    plain.load_state_dict(start)
    halves = trained(Replicas(plain))
    assert set(halves.names) == {f"module.{name}#{half}" for name in "012" for half in (0, 1)}
    for name in "012":
        both = [halves.figures("log2_grad_output")[:, halves.names.index(f"module.{name}#{half}")] for half in (0, 1)]
        whole = expected.figures("log2_grad_output")[:, expected.names.index(name)]
        np.testing.assert_allclose(0.5 * np.logaddexp2(2 * both[0], 2 * both[1]), whole, atol=BITS)


def test_autocast_to_bfloat16_is_the_model_rounded():
    def run(half):
        model = mlp().float()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        with gt.watch(model) as watched:
            for step in range(5):
                optimizer.zero_grad()
                with torch.autocast("cpu", torch.bfloat16, enabled=half):
                    loss = squares_of(model(batch(step).float()))
                watched.loss(loss).backward()
                optimizer.step()
        return watched.history

    def squares_of(y):
        return y.float().square().mean()

    rounded, whole = run(half=True), run(half=False)
    assert rounded.names == whole.names
    for name in FIGURES:
        np.testing.assert_allclose(
            rounded.figures(name), whole.figures(name), atol=tolerance("autocast", "log2", "float64"), rtol=0
        )
    assert np.isfinite(rounded.loss).all()


def tensors_alive():
    gc.collect()
    return sum(issubclass(type(one), torch.Tensor) for one in gc.get_objects())


def test_memory_does_not_grow_along_a_loop(monkeypatch):
    from gradtrace.watch import history as room

    monkeypatch.setattr(room, "_MOST_ROWS", 5 * 40)
    model = mlp()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    seen, alive, taken = deque(maxlen=20), [], []
    model[1].register_forward_hook(lambda module, given, output: seen.append(weakref.ref(output)))
    tracemalloc.start()
    try:
        with gt.watch(model) as watched:
            for step in range(400):
                optimizer.zero_grad()
                loss = squares(step % 7)(model)
                loss.backward()
                optimizer.step()
                del loss
                if step in (199, 399):
                    alive.append(tensors_alive())
                    taken.append(tracemalloc.get_traced_memory()[0])
    finally:
        tracemalloc.stop()
    assert alive[1] <= alive[0]  # fewer where what another test left behind has gone meanwhile
    assert taken[1] - taken[0] < 20_000  # bytes, in 200 steps
    assert sum(one() is not None for one in seen) <= 1
    assert len(watched.history) <= 2 * 64
    assert watched.history.recorded == 400


@pytest.mark.parametrize("waits", [False, True])
def test_figures_are_the_same_where_torch_measures_and_where_they_wait_on_a_device(monkeypatch, waits):
    from gradtrace.watch import measure

    whole, parts = trained(Checkpointed("reentrant").double(), steps=40), trained(mlp(), steps=40)
    monkeypatch.setattr(measure, "_seen", lambda values: None)
    if waits:
        monkeypatch.setattr(measure, "_settled", lambda number: number)
    again = trained(Checkpointed("reentrant").double(), steps=40)
    same(again, whole, (*FIGURES, "distinct", "dead", "saturated", "log2_input"))
    same(trained(mlp(), steps=40), parts, (*FIGURES, "distinct", "dead", "saturated", "log2_input"))
    np.testing.assert_allclose(again.along_outputs, whole.along_outputs, atol=BITS)


def test_threads_under_one_watch_raise_nothing():
    """What they leave is of steps that no order tells apart; training must not notice."""
    import threading

    model, raised = nn.Module(), []
    model.a, model.b = (nn.Sequential(nn.Linear(4, 32), nn.Tanh(), nn.Linear(32, out)) for out in (2, 1))

    def train(part):
        try:
            for _ in range(200):
                part(torch.randn(16, 4)).sum().backward()
        except BaseException as error:
            raised.append(error)

    with gt.watch(model):
        threads = [threading.Thread(target=train, args=(part,)) for part in (model.a, model.b)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert raised == []
