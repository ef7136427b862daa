"""Models and training loops that hooks meet: checkpoints, exceptions, scripted parts, transforms, copies, loops of cells."""

import copy
import io
import math
import pickle
import warnings

import numpy as np
import pytest
import test_interop_watch_steps as steps
from test_interop_watch import same, small
from tolerances import tolerance

import gradtrace as gt

torch = pytest.importorskip("torch")
nn = torch.nn
BITS = tolerance("torch", "log2")
INNER = pytest.mark.filterwarnings("ignore:None of the inputs have requires_grad")  # of a checkpoint in another
ALL = ("log2_grad_output", "log2_output", "log2_grad_weight", "log2_weight")


def inputs(width=4, samples=3, seed=0):
    return steps.data(width, samples, seed)


def step_of(model, *arguments):
    with gt.watch(model) as watched:
        model(*arguments).square().sum().backward()
    return watched.trace()


# Checkpoints ----------------------------------------------------------------------------------------------------------


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.bend, self.second = nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 4)

    def forward(self, x):
        return x + self.second(self.bend(self.first(self.bend(x))))


class Shared(nn.Module):
    """One block three times, then one checkpoint in another."""

    def __init__(self, reentrant=None):
        super().__init__()
        self.reentrant = reentrant
        self.enter, self.block, self.other, self.leave = nn.Linear(4, 4), Block(), Block(), nn.Linear(4, 2)

    def run(self, part, x):
        if self.reentrant is None:
            return part(x)
        return torch.utils.checkpoint.checkpoint(part, x, use_reentrant=self.reentrant)

    def pair(self, x):
        return self.run(self.block, self.run(self.other, x))

    def forward(self, x):
        x = self.enter(x)
        for _ in range(3):
            x = self.run(self.block, x)
        return self.leave(self.run(self.other, self.run(self.pair, x)))


def shared(reentrant):
    torch.manual_seed(0)
    return Shared(reentrant).double()


@INNER
@pytest.mark.parametrize("reentrant", [False, True])
def test_checkpoints_in_checkpoints_of_a_shared_block(reentrant):
    expected, trace = step_of(shared(None), inputs()), step_of(shared(reentrant), inputs())
    assert len(trace.names) == 26
    assert trace.names[1:3] == ("block.bend#0", "block.first#0")
    same(trace, expected, *ALL)
    assert trace.notes == ()


@INNER
def test_what_a_checkpoint_computes_otherwise_is_left_out():
    model = shared(True)
    model.block.bend = nn.Dropout(0.5)
    checkpoint = torch.utils.checkpoint.checkpoint
    model.run = lambda part, x: checkpoint(part, x, use_reentrant=True, preserve_rng_state=False)
    with gt.watch(model) as watched:
        model(inputs()).sum().backward()
        trace = watched.trace()
    note = "computed again in the backward pass with other values, so its gradient is left out"
    assert f"block.first: {note}" in trace.notes
    row = next(module for module in trace.modules if module.name == "block.first#0")
    assert math.isnan(row.log2_grad_output)


def test_a_checkpoint_around_the_whole_model_is_named():
    model, x = small(nn.Tanh), inputs(6).requires_grad_()
    with gt.watch(model) as watched:
        torch.utils.checkpoint.checkpoint(model, x, use_reentrant=True).sum().backward()
        with pytest.raises(RuntimeError, match="got none; a reentrant checkpoint around the whole model hides"):
            watched.trace()


# Exceptions -----------------------------------------------------------------------------------------------------------


class Interrupted(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner, self.error, self.at = nn.Linear(4, 4), None, "forward"

    def forward(self, x):
        y = self.inner(x)
        if self.error is not None and self.at == "forward":
            raise self.error
        if self.error is not None:
            y.register_hook(self.fail)
        return y

    def fail(self, gradient):
        raise self.error


@pytest.mark.parametrize("error", [KeyboardInterrupt(), MemoryError(), RuntimeError("out of memory")])
@pytest.mark.parametrize("at", ["forward", "backward"])
def test_a_pass_that_an_exception_ends_is_none(error, at):
    torch.manual_seed(0)
    part = Interrupted()
    model = nn.Sequential(nn.Linear(4, 4), nn.Sequential(part), nn.Linear(4, 2)).double()
    expected = step_of(model, inputs())
    part.at = at
    last = None
    with gt.watch(model) as watched:
        for complete in (0, 1):
            part.error = error
            with pytest.raises(type(error)):  # the exception keeps the graph of what it ended
                model(inputs()).square().sum().backward()
            part.error = None
            if complete:
                assert watched.trace().step == last
            else:
                with pytest.raises(RuntimeError, match="watch: expected a forward and a backward pass"):
                    watched.trace()
            model(inputs()).square().sum().backward()
            trace = watched.trace()
            last = trace.step
            assert (trace.backwards, trace.notes) == (1, ())
            same(trace, expected, *ALL)
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())
    assert not any(p._backward_hooks for p in model.parameters())


def test_a_second_pass_that_fails_is_not_counted():
    model = small(nn.Tanh)
    with gt.watch(model) as watched:
        loss = model(inputs(6)).sum()
        loss.backward()
        with pytest.raises(RuntimeError, match="a second time"):
            loss.backward()
        assert watched.trace().backwards == 1


# Scripted and compiled modules ----------------------------------------------------------------------------------------


def test_a_scripted_part_is_named_and_its_weights_are_seen():
    torch.manual_seed(0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # scripting is on its way out, says a later torch
        scripted = torch.jit.script(nn.Sequential(nn.Linear(4, 4), nn.Tanh()))
    model = nn.Sequential(nn.Linear(4, 4), scripted, nn.Linear(4, 2)).double()
    trace = step_of(model, inputs())
    assert trace.names == ("0", "1", "2")
    norm = math.hypot(*(float(p.grad.norm()) for p in model[1].parameters()))
    assert trace.modules[1].log2_grad_weight == pytest.approx(math.log2(norm), abs=BITS)
    assert math.isnan(trace.modules[1].log2_grad_output)
    assert trace.notes[0].startswith(
        "1 (RecursiveScriptModule): takes no hooks, only its parameters' gradients are seen"
    )
    with pytest.raises(ValueError, match="model: expected a module that takes hooks, got RecursiveScriptModule; watch"):
        gt.watch(scripted)
    with pytest.raises(ValueError, match=r"only: expected names of the model's modules, got '1\.0'"):
        gt.watch(model, only=["1.0"])
    for wrong, error, message in (
        (b"1", TypeError, "only: expected a list of names, got bytes"),
        (3, TypeError, "only: expected a list of names, got int"),
        ([1.0], TypeError, "only: expected names of the model's modules, got 1.0"),
        (memoryview(np.ones((2, 2))), TypeError, "only: expected a list of names, got memoryview"),
        (np.broadcast_to(np.float32(1), (3, 10**11, 3)), TypeError, "only: expected a list of names, got ndarray"),
    ):
        with pytest.raises(error, match=message):
            gt.watch(model, only=wrong)


def test_compiled_parts_are_named():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = nn.Sequential(
            nn.Linear(4, 4), torch.compile(nn.Linear(4, 4), backend="eager"), nn.Linear(4, 4)
        ).double()
        model[2].compile(backend="eager")
        trace = step_of(model, inputs())
    whole, inside = trace.modules[1], trace.modules[2]
    assert whole.log2_grad_weight == pytest.approx(
        math.log2(math.hypot(*(float(p.grad.norm()) for p in model[1].parameters()))), abs=BITS
    )
    assert math.isfinite(whole.log2_grad_output)
    assert math.isnan(inside.log2_grad_output)
    assert [note.split(";")[0] for note in trace.notes] == [
        "1 (OptimizedModule): seen as a whole",
        "2 (Linear): takes no hooks, only its parameters' gradients are seen",
    ]


# Other ways to a gradient ---------------------------------------------------------------------------------------------


def test_transforms_are_noted_and_do_not_fail():
    model, x = small(nn.Tanh), inputs(6)
    call = torch.func.functional_call
    with gt.watch(model) as watched:
        per_sample = torch.func.vmap(torch.func.grad(lambda p, x: call(model, p, (x,)).sum()), in_dims=(None, 0))
        per_sample(dict(model.named_parameters()), x)
        y = model(given := x.clone().requires_grad_())
        torch.autograd.grad(y, given, torch.stack([torch.ones_like(y)] * 3), is_grads_batched=True)
        trace = watched.trace()
        assert trace.notes == (
            "0, 1, 2: tensors of a kind that is not measured (nested, of torch.func, without numbers)",
        )
        assert all(math.isnan(module.log2_grad_output) for module in trace.modules)
        model(x).sum().backward()
        assert watched.trace().notes == ()


class Forces(nn.Module):
    """A gradient inside the forward pass, as models of molecules have it."""

    def __init__(self):
        super().__init__()
        self.energy = small(nn.Tanh)

    def forward(self, x):
        with torch.enable_grad():
            energy = self.energy(x.detach().requires_grad_())
            x = energy.grad_fn and torch.autograd.grad(energy.sum(), list(self.parameters())[:1], create_graph=True)[0]
        return energy.sum() + x.square().sum()


def test_a_gradient_inside_the_forward_pass_is_a_pass_of_the_step():
    model = Forces()
    with gt.watch(model) as watched:
        for step in range(2):
            model(inputs(6)).backward()
            assert [watched.trace(backward=place).order for place in (0, 1)] == [1, 2]
            assert (watched.trace().step, watched.trace().backwards) == (step, 2)
        with torch.no_grad():
            model(inputs(6))
        assert (watched.trace().step, watched.trace().backwards) == (2, 1)


def cells(model, backward, forget):
    """A cell in a loop, its modules called one by one and the model itself never."""
    for length in (2, 4):
        forget()
        state = None
        for t in range(length):
            state = model["cell"](model["enter"](inputs(4, seed=t)), state)
        backward(model["head"](state).square().mean())


def adversaries(model, backward, forget):
    made = nn.Linear(4, 4).double()
    forget()
    backward(model(inputs()).mean() - model(made(inputs()).detach()).mean())
    forget()
    backward(-model(made(inputs())).mean())


def test_cells_in_a_loop_and_two_optimisers():
    parts = {"enter": nn.Linear, "cell": nn.GRUCell, "head": nn.Linear}
    steps.agrees(lambda: nn.ModuleDict({name: make(4, 4) for name, make in parts.items()}).double(), cells, [1])
    steps.agrees(lambda: steps.mlp(4), adversaries, [1])


def test_gradients_that_go_on_into_earlier_steps_are_noted():
    model, state = nn.RNNCell(4, 4).double(), None
    with gt.watch(model) as watched:
        for _ in range(2):
            state = model(inputs(), state)
            state.sum().backward(retain_graph=True)
        trace = watched.trace()
    assert trace.names == ("RNNCell",)
    assert trace.notes == ("the gradient went on into forward passes of earlier steps, which are not shown",)


# What is kept, and what is not ----------------------------------------------------------------------------------------


def test_clearing_and_stepping_change_no_figure():
    model = small(nn.Tanh)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5, momentum=0.9)
    model.requires_grad_()
    with gt.watch(model) as watched:
        for _ in range(3):
            model(inputs(6)).square().sum().backward()
        before = watched.trace()
        optimizer.step()
        optimizer.zero_grad()
        same(watched.trace(), before, *ALL)
        same(
            step_of(copy.deepcopy(small(nn.Tanh)), inputs(6)), before, *ALL
        )  # neither accumulated nor of later weights


def test_evaluations_with_gradients_are_dropped():
    model = small(nn.Tanh)
    with gt.watch(model) as watched:
        for _ in range(2):
            model(inputs(6)).sum().backward()
            for _ in range(5):
                seen = model(inputs(6))
            assert watched.trace().notes[-1].endswith("has had no backward pass yet")
            del seen
        model(inputs(6)).sum().backward()
        assert (watched.trace().step, watched.trace().names) == (2, ("0", "1", "2"))


def test_copies_pickles_and_replicas_of_a_watched_model():
    model = small(nn.Tanh)
    with gt.watch(model) as watched, warnings.catch_warnings():
        warnings.simplefilter("error")
        model(inputs(6)).sum().backward()
        torch.save(model, io.BytesIO())
        for twin in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
            twin(inputs(6)).sum().backward()
        assert (watched.trace().step, watched.trace().backwards) == (0, 1)
    leaf = nn.Linear(6, 2).double()
    with gt.watch(leaf) as watched:
        twin = leaf._replicate_for_data_parallel()
        twin.weight, twin.bias = leaf.weight * 1, leaf.bias * 1
        (leaf(inputs(6)).sum() + twin(inputs(6)).sum()).backward()
        assert watched.trace().names == ("Linear#0", "Linear#1")


def test_shared_lazy_and_new_parameters():
    model = nn.Sequential(nn.Embedding(9, 4), nn.Tanh(), nn.Linear(4, 9, bias=False))
    model[2].weight = model[0].weight
    with gt.watch(model) as watched:
        model(torch.tensor([1, 2])).sum().backward()
        trace = watched.trace()
        assert trace.notes == ("0, 2: share a parameter, whose one gradient counts for each",)
        assert trace.modules[0].log2_grad_weight == trace.modules[2].log2_grad_weight
        model[2].weight = nn.Parameter(torch.ones(9, 4))
        model(torch.tensor([1, 2])).sum().backward()
        norm = float(model[2].weight.grad.norm())
        assert watched.trace().modules[2].log2_grad_weight == pytest.approx(
            math.log2(norm), abs=tolerance("torch", "log2", "float32")
        )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        lazy = nn.LazyLinear(3)
    trace = step_of(lazy, inputs().float())
    assert math.isfinite(trace.modules[0].log2_grad_weight)


def test_a_backward_pass_outside_the_watch_is_not_recorded():
    model = small(nn.Tanh)
    with gt.watch(model) as watched:
        loss = model(inputs(6)).sum()
    loss.backward(retain_graph=True)
    with pytest.raises(RuntimeError, match="got a forward pass alone"):
        watched.trace()
    with watched:
        loss.backward()  # of a forward pass that was watched before
        model(inputs(6)).sum().backward()
        assert (watched.trace().step, watched.trace().names) == (1, ("0", "1", "2"))
