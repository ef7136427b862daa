"""Any PyTorch model watched: figures equal to autograd's, whatever the model does, and hooks that go away."""

import copy

import numpy as np
import pytest
from tolerances import tolerance

import gradtrace as gt

torch = pytest.importorskip("torch")
nn = torch.nn
BITS = tolerance("torch", "log2")


def transformer(layers=12, width=32):
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(width, 4, 64, dropout=0.0, batch_first=True, norm_first=True)
    return nn.Sequential(nn.TransformerEncoder(layer, layers, enable_nested_tensor=False), nn.Linear(width, 5))


def by_hand(model, x, loss):
    """Norms of dL/d(output) of every module by retain_grad: no code in common with the watch."""
    outputs, handles = {}, []

    def keep(name):
        def hook(module, inputs, output):
            tensor = output[0] if isinstance(output, tuple) else output
            if tensor.requires_grad:
                tensor.retain_grad()
            outputs[name] = tensor

        return hook

    for name, module in model.named_modules():
        if name:
            handles.append(module.register_forward_hook(keep(name)))
    model.zero_grad()
    loss(model(x)).backward()
    for handle in handles:
        handle.remove()
    return {name: tensor.grad for name, tensor in outputs.items()}


def test_a_transformer_of_twelve_layers():
    model, x = transformer().double(), torch.randn(3, 7, 32, dtype=torch.float64)
    expected = by_hand(model, x, lambda y: y.square().sum())
    weights = dict(model.named_modules())
    model.zero_grad()
    with gt.watch(model) as watched:
        model(x).square().sum().backward()
        trace = watched.trace()
    assert len(trace.modules) > 100
    checked = 0
    for module in trace.modules:
        if expected.get(module.name) is not None:
            checked += 1
            assert abs(module.log2_grad_output - np.log2(expected[module.name].norm().item())) < BITS, module.name
        own = list(weights[module.name].parameters(recurse=False))
        if own:
            squares = sum(p.grad.square().sum().item() for p in own)
            assert abs(module.log2_grad_weight - 0.5 * np.log2(squares)) < BITS, module.name
    assert checked > 90
    every = {id(p) for m in trace.modules for p in weights[m.name].parameters(recurse=False)}
    assert every == {id(p) for p in model.parameters()}


def test_convolutions_and_dead_relus():
    model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 36, 3), nn.Sigmoid())
    with torch.no_grad():
        model[0].bias.copy_(torch.tensor([-100.0, -100.0, -100.0, 0.0]))
        model[3].weight.mul_(1e3)
    with gt.watch(model) as watched:
        model(torch.randn(5, 1, 8, 8)).sum().backward()
        trace = watched.trace()
    relu = next(module for module in trace.modules if module.kind == "ReLU")
    assert relu.dead == 0.75
    assert {"dead_units", "saturation"} <= set(trace.diagnose().kinds)


def test_a_vanishing_model_is_found_and_a_healthy_one_not():
    def deep(activation, init):
        torch.manual_seed(0)
        layers = []
        for _ in range(20):
            linear = nn.Linear(64, 64)
            init(linear.weight)
            nn.init.zeros_(linear.bias)
            layers += [linear, activation()]
        return nn.Sequential(*layers, nn.Linear(64, 10))

    x, y = torch.randn(32, 64), torch.arange(32) % 10
    for activation, init, kinds in (
        (nn.Sigmoid, nn.init.xavier_normal_, {"vanishing"}),
        (nn.ReLU, nn.init.kaiming_normal_, set()),
    ):
        model = deep(activation, init)
        for factor in (1.0, 1e5, 1e-9):
            with gt.watch(model) as watched:
                (factor * nn.functional.cross_entropy(model(x), y)).backward()
                assert set(watched.trace().diagnose().kinds) == kinds


def test_watching_changes_nothing():
    model, x = transformer(2), torch.randn(2, 3, 32)
    model(x).sum().backward()
    expected = [parameter.grad.clone() for parameter in model.parameters()]
    model.zero_grad()
    with gt.watch(model) as watched:
        model(x).sum().backward()
    assert all(torch.equal(parameter.grad, grad) for parameter, grad in zip(model.parameters(), expected, strict=True))
    assert not any(module._forward_hooks for module in model.modules())
    assert len(watched.trace().modules) > 10  # what was recorded stays


def test_every_and_only():
    model, x = transformer(3), torch.randn(2, 3, 32)
    with gt.watch(model, every=3, only=["0.layers.1"]) as watched:
        traces = []
        for _ in range(7):
            model(x).sum().backward()
            traces.append(watched.trace())
    assert [trace.step for trace in traces] == [0, 0, 0, 3, 3, 3, 6]
    assert all(module.name.startswith("0.layers.1") for module in traces[-1].modules)
    assert [trace.notes for trace in traces[:4]] == [
        (),
        ("step 1 since then not recorded, every=3",),
        ("steps 1 to 2 since then not recorded, every=3",),
        (),
    ]
    assert "Note: steps 1 to 2 since then not recorded, every=3." in str(traces[2])


def test_shared_modules_and_modules_never_called():
    class Odd(nn.Module):
        def __init__(self):
            super().__init__()
            self.shared, self.idle = nn.Linear(4, 4), nn.Linear(4, 4)

        def forward(self, x):
            return {"y": self.shared(self.shared(x)), "n": torch.arange(3)}

    model = Odd()
    with gt.watch(model) as watched:
        model(torch.ones(2, 4))["y"].sum().backward()
        trace = watched.trace()
    assert trace.names == ("shared#0", "shared#1", "idle")
    by_name = {module.name: module for module in trace.modules}
    assert by_name["shared#0"].entries == by_name["shared#1"].entries == 8
    assert np.isnan(by_name["idle"].log2_grad_output)
    assert np.isnan(by_name["idle"].log2_grad_weight)
    assert not np.isnan(by_name["idle"].log2_weight)


def test_watch_prints_and_plots():
    pyplot = pytest.importorskip("matplotlib.pyplot")
    model = transformer(2)
    with gt.watch(model) as watched:
        model(torch.randn(2, 3, 32)).sum().backward()
        trace = watched.trace()
    assert "|dy|" in str(trace)
    assert trace._repr_html_().startswith("<table>")
    assert trace.plot().get_ylabel() == "norm, log2"
    assert trace.to_dict()["modules"]
    pyplot.close("all")


def test_watch_errors():
    model = nn.Linear(2, 2)
    with pytest.raises(TypeError, match=r"model: expected a torch.nn.Module, got int"):
        gt.watch(3)
    with pytest.raises(ValueError, match="only: expected names of the model's modules, got 'x'"):
        gt.watch(model, only=["x"])
    with pytest.raises(ValueError, match="every: expected at least 1"):
        gt.watch(model, every=0)
    with pytest.raises(RuntimeError, match="expected a forward and a backward pass"):
        gt.watch(model).trace()
    with gt.watch(model) as watched, pytest.raises(RuntimeError, match="not yet open"):
        watched.__enter__()


# What models do ---------------------------------------------------------------------------------------------------------


def small(*activations, width=6, dtype=torch.float64):
    torch.manual_seed(0)
    layers = [layer for activation in activations for layer in (nn.Linear(width, width), activation())]
    return nn.Sequential(*layers, nn.Linear(width, 2)).to(dtype)


def inputs(width=6, dtype=torch.float64):
    return torch.tensor(np.random.default_rng(0).standard_normal((4, width))).to(dtype)


def watched_step(model, *arguments, **options):
    model.zero_grad()
    with gt.watch(model, **options) as watched:
        model(*arguments).sum().backward()
        return watched.trace()


def same(first, second, *names):
    """Every named figure of two traces is the same to rounding; NaN where NaN."""
    assert first.names == second.names
    for name in names or ("log2_grad_output", "log2_output", "log2_grad_weight", "log2_weight", "entries"):
        np.testing.assert_allclose(first.figures(name), second.figures(name), rtol=0, atol=BITS, err_msg=name)


def test_operations_in_place():
    model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Conv2d(4, 2, 3), nn.ReLU(), nn.Flatten()).double()
    x = torch.tensor(np.random.default_rng(0).standard_normal((3, 1, 8, 8)))
    expected = watched_step(model, x)
    for module in model:
        if isinstance(module, nn.ReLU):
            module.inplace = True
    same(watched_step(model, x), expected)


class Checkpointed(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.block, self.last = nn.Linear(6, 6), small(nn.Tanh), nn.Linear(2, 2)
        self.reentrant = None

    def forward(self, x):
        x = self.first(x)
        if self.reentrant is None:
            return self.last(self.block(x))
        return self.last(torch.utils.checkpoint.checkpoint(self.block, x, use_reentrant=self.reentrant))


@pytest.mark.parametrize("reentrant", [False, True])
def test_what_a_checkpoint_computes_again_counts_once(reentrant):
    model = Checkpointed().double()
    expected = watched_step(model, inputs())
    model.reentrant = reentrant
    same(watched_step(model, inputs()), expected)


def test_evaluation_between_forward_and_backward_is_no_step():
    model = small(nn.Tanh)
    expected = watched_step(model, inputs())
    model.zero_grad()
    with gt.watch(model) as watched:
        loss = model(inputs()).sum()
        with torch.no_grad():
            model(10 * inputs())
        with torch.inference_mode():
            model(10 * inputs())
        loss.backward()
        same(watched.trace(), expected)
        assert watched.trace().step == 0
    with gt.watch(model) as watched, torch.no_grad():
        model(inputs())
        with pytest.raises(RuntimeError, match="expected a forward and a backward pass"):
            watched.trace()


def test_the_step_of_a_trace_is_the_recorded_one():
    model = small(nn.Tanh)
    with gt.watch(model, every=3) as watched:
        for expected in (0, 0, 0, 3, 3):
            model(inputs()).sum().backward()
            assert watched.trace().step == expected


def test_frozen_parameters_have_no_gradient():
    model = small(nn.Tanh, nn.Tanh)
    expected = watched_step(model, inputs())
    for parameter in model[0].parameters():
        parameter.requires_grad_(False)
    trace = watched_step(model, inputs())
    assert np.isnan([trace.modules[0].log2_grad_output, trace.modules[0].log2_grad_weight]).all()
    assert trace.modules[0].log2_weight == expected.modules[0].log2_weight
    assert trace.modules[2] == expected.modules[2] or trace.modules[2].log2_grad_weight == pytest.approx(
        expected.modules[2].log2_grad_weight, abs=BITS
    )


def test_hooks_go_away_after_exceptions_and_the_next_pass_counts_from_the_start():
    model = small(nn.Tanh)
    expected = watched_step(model, inputs())
    with pytest.raises(RuntimeError, match="shapes"), gt.watch(model):
        model(inputs(7))
    assert not any(m._forward_hooks or m._forward_pre_hooks or m._backward_hooks for m in model.modules())
    model.zero_grad()
    with gt.watch(model) as watched:
        with pytest.raises(RuntimeError, match="shapes"):
            model(inputs(7))
        model(inputs()).sum().backward()
        same(watched.trace(), expected)


class Bare(nn.Module):
    def __init__(self):
        super().__init__()
        self.own, self.last = nn.Parameter(torch.ones(6, 6, dtype=torch.float64)), nn.Linear(6, 2).double()

    def forward(self, x):
        return self.last(torch.tanh(x @ self.own))


def test_a_model_without_children_and_parameters_of_the_model_itself():
    assert watched_step(nn.Linear(6, 2).double(), inputs()).names == ("Linear",)
    trace = watched_step(model := Bare(), inputs())
    assert trace.names == ("last", "Bare")
    assert trace.modules[1].log2_grad_weight == pytest.approx(np.log2(model.own.grad.norm().item()), abs=BITS)


def test_norms_do_not_end_where_squares_underflow():
    """A float64 gradient of 2^-900 is a number, its square is none."""
    model = small(*[nn.Sigmoid] * 50)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(1e-5)
    trace = watched_step(model, inputs())
    assert -1000 < trace.modules[0].log2_grad_output < -600
    assert trace.diagnose()[0].kind == "vanishing"
    assert trace.diagnose()[0].severity == "critical"


def test_the_last_state_of_an_lstm_is_an_output():
    class LastState(nn.Module):
        def __init__(self):
            super().__init__()
            self.cell, self.last = nn.LSTM(3, 5), nn.Linear(5, 2)

        def forward(self, x):
            return self.last(self.cell(x)[1][0][-1])

    model = LastState()
    trace = watched_step(model, torch.ones(7, 2, 3))
    expected = 0.5 * np.log2(2 * model.last.weight.sum(dim=0).square().sum().item())
    assert trace.modules[0].log2_grad_output == pytest.approx(expected, abs=tolerance("torch", "log2", "float32"))


def test_sparse_gradients_and_half_precision():
    model = nn.Sequential(nn.Embedding(9, 6, sparse=True), nn.Linear(6, 2))
    assert watched_step(model, torch.tensor([1, 1, 3])).modules[0].log2_grad_weight == pytest.approx(
        np.log2(model[0].weight.grad.to_dense().norm().item()), abs=tolerance("torch", "log2", "float32")
    )
    trace = watched_step(small(nn.ReLU, dtype=torch.bfloat16), inputs(dtype=torch.bfloat16))
    assert np.isfinite(trace.figures("log2_grad_output")).all()


def test_units_are_dead_where_the_derivative_is_0():
    for activation, low, high in ((nn.ReLU, 0.0, np.inf), (nn.ReLU6, 0.0, 6.0), (nn.Hardtanh, -1.0, 1.0)):
        model = nn.Sequential(nn.Linear(4, 4), activation(), nn.Linear(4, 2))
        with torch.no_grad():
            model[0].weight.mul_(1e-3)
            model[0].bias.copy_(torch.tensor([-0.5, 0.5, 9.0, -9.0]))
        dead = watched_step(model, torch.ones(3, 4)).modules[1].dead
        assert dead == np.mean([not low < bias < high for bias in (-0.5, 0.5, 9.0, -9.0)]), activation


def test_numbers_that_are_none_are_found():
    model = small(nn.Tanh)
    with gt.watch(model) as watched:
        (model(inputs()).sum() * np.nan).backward()
        finding = watched.trace().diagnose()[0]
    assert (finding.kind, finding.severity) == ("exploding", "critical")
    assert finding.cause == "From module 2 back the gradient is infinite or undefined."
    with torch.no_grad():
        model[0].weight[0, 0] = np.inf
    assert watched_step(model, inputs()).diagnose()[0].kind == "forward_overflow"


def test_a_gradient_that_is_0_at_the_end_accuses_nobody():
    model = small(nn.Tanh)
    with gt.watch(model) as watched:
        (model(inputs()).sum() * 0).backward()
        assert watched.trace().diagnose().healthy
    with torch.no_grad():
        model[2].weight.zero_()
    assert watched_step(model, inputs()).diagnose().healthy  # a head of zeros learns, and then what is below it


def test_a_copy_of_the_model_does_not_write_into_the_watch():
    model = small(nn.Tanh)
    expected = watched_step(model, inputs())
    model.zero_grad()
    with gt.watch(model) as watched:
        average = copy.deepcopy(model)
        model(inputs()).sum().backward()
        with torch.no_grad():
            average(10 * inputs())
        same(watched.trace(), expected)
