"""Steps of a watch: every backward pass told apart, equal to what autograd gives for retained tensors."""

import math

import numpy as np
import pytest
from tolerances import tolerance

import gradtrace as gt

torch = pytest.importorskip("torch")
nn = torch.nn
BITS = tolerance("torch", "log2")


def grad_of(scalar, wanted):
    """log2 norms of the derivatives of a scalar; NaN where it does not depend."""
    if not wanted:
        return []
    found = torch.autograd.grad(scalar, wanted, retain_graph=True, allow_unused=True)
    return [math.nan if one is None else float(one.norm().log2()) for one in found]


def leads_to(output, wrt):
    """Whether a backward pass to some tensors comes by an output on its way."""
    return wrt is None or not all(math.isnan(norm) for norm in grad_of(output.sum(), wrt))


class ByHand:
    """Runs a scenario without a watch: derivatives with respect to all outputs so far, before each backward pass."""

    def __init__(self, model):
        self.model, self.passes, self.outputs = model, [], []
        self.names = [name for name, module in model.named_modules() if not list(module.children())]
        for name in self.names:
            model.get_submodule(name).register_forward_hook(lambda *facts, name=name: self.called(name, facts[-1]))

    def called(self, name, output):
        if torch.is_grad_enabled():
            self.outputs.append((name, output))

    def backward(self, scalar, wrt=None, create_graph=False):
        reached = [y.requires_grad and leads_to(y, wrt) for _, y in self.outputs]
        norms = iter(grad_of(scalar, [y for (_, y), there in zip(self.outputs, reached, strict=True) if there]))
        outputs = [
            (name, next(norms) if there else math.nan) for (name, _), there in zip(self.outputs, reached, strict=True)
        ]
        parameters = [p for p in self.model.parameters() if p.requires_grad]
        given = [p for p in parameters if wrt is None or any(p is one for one in wrt)]
        own = {id(p): name for name, p in self.model.named_parameters()}
        weights = {own[id(p)]: norm for p, norm in zip(given, grad_of(scalar, given), strict=True)}
        self.passes.append((outputs, weights))
        return run_backward(scalar, wrt, create_graph)

    def forget(self):
        """A new step."""
        self.outputs.clear()
        self.passes.clear()


def run_backward(scalar, wrt=None, create_graph=False):
    if wrt is None:
        return scalar.backward(retain_graph=True, create_graph=create_graph)
    return torch.autograd.grad(scalar, wrt, retain_graph=True, create_graph=create_graph, allow_unused=True)


def agrees(make, scenario, orders=None, **options):
    """Run a scenario watched and by hand; every backward pass of the last step has the figures that autograd gives."""
    torch.manual_seed(0)
    model = make()
    hand = ByHand(model)
    with torch.random.fork_rng():
        scenario(model, hand.backward, hand.forget)
    torch.manual_seed(0)
    model = make()
    with gt.watch(model, **options) as watched:
        with torch.random.fork_rng():
            scenario(model, run_backward, lambda: None)
        model.zero_grad()
        count = watched.trace().backwards
        assert count == len(hand.passes)
        for number, (outputs, weights) in enumerate(hand.passes):
            trace = watched.trace(backward=number)
            compare(trace, model, outputs, weights)
            if orders is not None:
                assert trace.order == orders[number]
    return watched


def compare(trace, model, outputs, weights):
    totals = {name: sum(one == name for one, _ in outputs) for name, _ in outputs}
    seen = dict.fromkeys(totals, 0)
    rows = {module.name: module for module in trace.modules}
    for name, expected in outputs:
        row = rows[name if totals[name] == 1 else f"{name}#{seen[name]}"]
        seen[name] += 1
        assert row.log2_grad_output == pytest.approx(expected, abs=BITS, nan_ok=True), row
        own = [weights.get(f"{name}.{one}", math.nan) for one, _ in model.get_submodule(name).named_parameters()]
        own = [norm for norm in own if not math.isnan(norm)]
        expected = 0.5 * np.log2(np.sum(np.exp2(2 * np.array(own)))) if own else math.nan
        assert row.log2_grad_weight == pytest.approx(expected, abs=BITS, nan_ok=True), row


def mlp(width=5, outputs=1, depth=2):
    layers = [part for _ in range(depth) for part in (nn.Linear(width, width), nn.Tanh())]
    return nn.Sequential(*layers, nn.Linear(width, outputs)).double()


def data(width=5, samples=7, seed=1):
    return torch.tensor(np.random.default_rng(seed).standard_normal((samples, width)))


# Several backward passes in a step ------------------------------------------------------------------------------------


def physics(model, backward, forget):
    x = data().requires_grad_()
    u = model(x)
    (du,) = backward(u.sum(), [x], create_graph=True)
    (ddu,) = backward(1e4 * du.sum(), [x], create_graph=True)
    backward((ddu.sum(dim=1) + u[:, 0]).square().mean() * 1e-3)


def penalty(model, backward, forget):
    x = data(seed=2).requires_grad_()
    real, fake = model(data()), model(data(seed=3))
    (slope,) = backward(model(x).sum(), [x], create_graph=True)
    backward(real.mean() - fake.mean() + 10 * (slope.norm(dim=1) - 1).square().mean())


def penalty_first(model, backward, forget):
    x = data(seed=2).requires_grad_()
    (slope,) = backward(model(x).sum(), [x], create_graph=True)
    forget()  # the next forward pass begins another step
    backward(model(data()).mean() + 10 * (slope.norm(dim=1) - 1).square().mean())


def two_losses(model, backward, forget):
    y = model(data())
    backward(y.sum())
    backward(1e-5 * y.square().mean())


def parts_of_the_weights(model, backward, forget):
    y = model(data())
    backward(y.sum(), [model[0].weight])
    backward(y.sum(), list(model.parameters()))
    backward(y.sum(), [model[2].bias, model[4].weight])


def meta(model, backward, forget):
    y = model(data())
    inner = backward(y.square().mean(), list(model.parameters()), create_graph=True)
    backward(sum(one.square().sum() for one in inner))


def micro_batches(model, backward, forget):
    for seed in range(3):
        forget()
        backward(model(data(seed=seed)).square().mean() * 10.0**-seed)


def two_forward_passes(model, backward, forget):
    backward((model(data()) - 3 * model(data(seed=5))).square().mean())


SCENARIOS = [
    (physics, [1, 2, 3]),
    (penalty, [1, 2]),
    (penalty_first, [2]),
    (two_losses, [1, 1]),
    (parts_of_the_weights, [1, 1, 1]),
    (meta, [1, 2]),
    (micro_batches, [1]),
    (two_forward_passes, [1]),
]


@pytest.mark.parametrize(("scenario", "orders"), SCENARIOS, ids=[one.__name__ for one, _ in SCENARIOS])
def test_every_backward_pass_has_its_own_figures(scenario, orders):
    agrees(mlp, scenario, orders)


def test_a_model_of_one_layer_knows_higher_orders_by_its_input():
    def scenario(model, backward, forget):
        x = data().requires_grad_()
        (slope,) = backward(model(x).sum(), [x], create_graph=True)
        backward(slope.square().sum())

    agrees(lambda: nn.Sequential(nn.Linear(5, 1)).double(), scenario, [1, 2])


def test_passes_are_chosen_by_place_and_order():
    model = mlp()
    with gt.watch(model) as watched:
        penalty(model, run_backward, None)
    first, second = watched.trace(), watched.trace(backward=1)
    assert (first.backward, first.backwards, first.order, second.order) == (0, 2, 1, 2)
    assert str(watched.trace(order=2)) == str(second) == str(watched.trace(backward=-1))
    assert first.to_dict()["order"] == 1
    assert str(first).startswith("WatchTrace: 15 modules, step 0, backward=0 of 2\n")
    assert str(second).startswith("WatchTrace: 15 modules, step 0, backward=1 of 2, order=2\n")
    with pytest.raises(ValueError, match="backward: expected 0 to 1, got 2"):
        watched.trace(backward=2)
    with pytest.raises(TypeError, match="backward: expected an integer, got str"):
        watched.trace(backward="0")
    with pytest.raises(ValueError, match="order: expected one of 1, 2, got 3"):
        watched.trace(order=3)
    with pytest.raises(ValueError, match="order: expected at least 1, got 0"):
        watched.trace(order=0)


def test_derivatives_of_all_outputs_are_counted_and_kept_within_bounds():
    model, x = mlp(outputs=300), data(samples=1)
    with gt.watch(model) as watched:
        y = model(x)
        for place in range(300):
            torch.autograd.grad(y[0, place], model[0].weight, retain_graph=True)
        assert watched.trace(backward=255).backwards == 300
        with pytest.raises(ValueError, match="backward: expected one of the first 256 of the step, got 299"):
            watched.trace(backward=299)


# Random models and random training loops ------------------------------------------------------------------------------


class Random(nn.Module):
    """Modules of one width, called in a random order, some again, some frozen, one never."""

    def __init__(self, seed):
        super().__init__()
        self.rng = np.random.default_rng(seed)
        kinds = (nn.Tanh, nn.Sigmoid, nn.SiLU, lambda: nn.Linear(4, 4), lambda: nn.LayerNorm(4))
        self.parts = nn.ModuleList(kinds[self.rng.integers(len(kinds))]() for _ in range(5))
        self.head, self.idle = nn.Linear(4, 2), nn.Linear(4, 4)
        self.head.weight.requires_grad_(self.rng.random() < 0.8)
        self.route = self.rng.integers(0, 5, 6)
        self.cut = self.rng.integers(0, 6) if self.rng.random() < 0.3 else -1
        self.double()

    def forward(self, x):
        for place, part in enumerate(self.route):
            x = x + self.parts[part](x.detach() if place == self.cut else x)
        return self.head(x)


def random_loop(seed):
    def loop(model, backward, forget):
        rng = np.random.default_rng(seed)
        for _ in range(rng.integers(1, 4)):
            forget()
            given = data(4, seed=seed).requires_grad_(bool(rng.random() < 0.7))
            outs = [model(given) for _ in range(rng.integers(1, 3))]
            with torch.no_grad():
                model.head(given)
            total = sum(out.square().sum() for out in outs)
            for _ in range(rng.integers(1, 4)):
                kind = rng.integers(3)
                if kind == 0 or not given.requires_grad:
                    backward(total * 10.0 ** rng.integers(-8, 9))
                else:
                    (slope,) = backward(total, [given], create_graph=bool(kind == 2))
                    total = total + slope.square().sum() if kind == 2 and slope is not None else total

    return loop


@pytest.mark.parametrize("seed", range(20))
def test_random_models_and_loops(seed):
    agrees(lambda: Random(seed), random_loop(seed))


def kept_outputs(watcher):
    steps = (watcher._recorder.step, watcher._recorder.last)
    return [one for step in steps if step for forward in step.forwards for one in forward.outputs if one is not None]


def test_outputs_are_let_go_with_the_backward_pass_and_with_the_watch():
    class Heads(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.second = nn.Linear(3, 4), nn.Linear(3, 5)

        def forward(self, x):
            return self.first(x), self.second(x)

    model, x = Heads(), torch.ones(2, 3)
    with gt.watch(model) as watcher:
        outputs = model(x)
        assert len(kept_outputs(watcher)) == 2
        outputs[0].sum().backward()
        assert not kept_outputs(watcher)
        outputs[1].sum().backward()
        abandoned = model(x)
        assert len(kept_outputs(watcher)) == 2
    assert not kept_outputs(watcher)
    assert len(abandoned) == 2


def test_a_step_is_told_once_it_is_over():
    model, told = mlp(), []

    def listener(step):
        told.append((step.number, step.recorded, len(step.complete)))
        model(data()).sum().backward()  # of no step

    watched = gt.watch(model, every=2)
    for contexts in range(2):
        with watched:
            watched._recorder.listeners.append(listener)
            for number in range(3):
                for part in (1, 2):
                    model(data()[:part])
                model(data()).sum().backward()
                assert len(told) == 3 * contexts + number
            with torch.no_grad():
                model(data())
    assert told == [(number, number % 2 == 0, 1) for number in range(6)]


# Compiled behind the watch ---------------------------------------------------------------------------------------------


class Block(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.norm, self.up, self.down = nn.LayerNorm(width), nn.Linear(width, 2 * width), nn.Linear(2 * width, width)

    def forward(self, x):
        return x + self.down(nn.functional.gelu(self.up(self.norm(x))))


@pytest.mark.filterwarnings("ignore:.*:UserWarning:torch")  # of the compiler's own reading of .grad
@pytest.mark.filterwarnings("ignore:The .grad attribute")
@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
def test_a_model_whose_modules_are_watched_may_be_compiled(backend):
    """Hooks run between its graphs: nothing of them is compiled, anew for each module until the compiler gives up."""
    import torch._dynamo

    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(5, 8), *(Block(8) for _ in range(5)), nn.Linear(8, 1)).double()
    torch.compiler.reset()
    compiled, traces = torch.compile(model, backend=backend), {}
    with torch._dynamo.config.patch(fail_on_recompile_limit_hit=True):
        for called in (model, compiled):
            with gt.watch(model) as watched:
                for number in range(2):
                    called(data(seed=number)).square().mean().backward()
            traces[called] = watched.trace()
        compiled(data()).sum().backward()  # the hooks are gone
    assert watched.trace().step == 1
    assert traces[compiled].names == traces[model].names
    for name in ("log2_grad_output", "log2_output", "log2_grad_weight", "gain"):
        np.testing.assert_allclose(traces[compiled].figures(name), traces[model].figures(name), rtol=0, atol=BITS)
