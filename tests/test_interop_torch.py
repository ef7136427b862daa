"""PyTorch modules: the same trace as autograd's, and what cannot be represented refused."""

import numpy as np
import pytest
from tolerances import tolerance

import gradtrace as gt
from gradtrace.interop.agreement import check_agreement

torch = pytest.importorskip("torch")
nn = torch.nn
BITS = tolerance("torch", "log2")  # the limit


def sequential():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Flatten(),
        nn.Linear(12, 20),
        nn.LayerNorm(20),
        nn.ReLU(),
        nn.Dropout(0.3),
        nn.Sequential(nn.Linear(20, 20, bias=False), nn.GELU(), nn.Linear(20, 20), nn.Tanh()),
        nn.Linear(20, 20),
        nn.Identity(),
        nn.LeakyReLU(),
        nn.Linear(20, 5),
    ).double()


def test_the_same_trace_as_autograd():
    module = sequential().eval()
    stack = gt.from_torch(module)
    assert stack.activation == ("relu", "gelu", "tanh", "leaky_relu", "linear")
    x = np.random.default_rng(0).standard_normal((9, 12))
    labels = np.arange(9) % 5
    trace = stack.trace(x, target=labels, loss="cross_entropy")
    linear = [layer for layer in module.modules() if isinstance(layer, nn.Linear)]
    outputs = []

    def keep(layer, inputs, output):
        output.retain_grad()
        outputs.append(output)

    for layer in linear:
        layer.register_forward_hook(keep)
    loss = nn.functional.cross_entropy(module(torch.tensor(x)), torch.tensor(labels))
    loss.backward()
    for index, (layer, output) in enumerate(zip(linear, outputs, strict=True)):
        norms = np.log2(np.linalg.norm(output.grad.numpy(), axis=1))
        assert np.abs(trace.log2_delta[index] - norms).max() <= BITS
        assert abs(trace.log2_grad_weight[index] - np.log2(layer.weight.grad.norm().item())) <= BITS
    assert abs(trace.loss - loss.item()) < tolerance("torch", "loss")


@pytest.mark.parametrize(
    ("layer", "name"),
    [
        (nn.LeakyReLU(0.3), "leaky_relu:0.3"), (nn.LeakyReLU(-1), "leaky_relu:-1.0"), (nn.LeakyReLU(0), "relu"),
        (nn.ELU(0.5), "elu:0.5"), (nn.ELU(3), "elu:3.0"), (nn.ELU(), "elu"),
    ],
)  # fmt: skip
def test_a_slope_or_alpha_comes_along(layer, name):
    torch.manual_seed(0)
    module, x = nn.Sequential(nn.Linear(4, 8), layer, nn.Linear(8, 2)).double(), torch.randn(6, 4).double()
    stack = gt.from_torch(module)
    assert stack.activation == (name, "linear")
    np.testing.assert_allclose(
        stack.forward(x.numpy()), module(x).detach().numpy(), rtol=tolerance("recomputed", "tens of roundings")
    )


@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("name", ["LSTM", "GRU", "RNN"])
def test_recurrent_modules_give_the_same_trace_as_autograd(name, bidirectional):
    torch.manual_seed(1)
    module = getattr(nn, name)(3, 6, num_layers=2, bidirectional=bidirectional, batch_first=True, dtype=torch.float64)
    network = gt.from_torch(module)
    x = torch.tensor(np.random.default_rng(0).standard_normal((4, 7, 3)), requires_grad=True)  # batch first
    y, _ = module(x)
    cotangent = torch.tensor(np.random.default_rng(1).standard_normal(tuple(y.shape)))
    y.backward(cotangent)
    trace = network.trace(x.detach().numpy(), cotangent=cotangent.numpy())
    norms = np.log2(np.linalg.norm(x.grad.numpy().transpose(1, 0, 2), axis=2))
    assert np.abs(trace.log2_dx - norms).max() <= BITS
    suffixes = [f"_l{k}{r}" for k in range(2) for r in (("", "_reverse") if bidirectional else ("",))]
    for at, suffix in enumerate(suffixes):
        gradient = getattr(module, f"weight_hh{suffix}").grad.norm().item()
        assert abs(trace.log2_grad_weight_hh[at] - np.log2(gradient)) <= BITS


def test_relu_rnn_and_no_biases():
    module = nn.RNN(3, 4, nonlinearity="relu", bias=False)
    network = gt.from_torch(module)
    assert network.activation == "relu"
    assert network.bias_ih == (None,)


def test_arrays_are_the_module_s_own():
    """A training step is seen by the next trace."""
    module = nn.Sequential(nn.Linear(4, 3))
    stack = gt.from_torch(module)
    with torch.no_grad():
        module[0].weight.zero_()
    assert not stack.weights[0].any()


def test_the_module_stays_as_it_is():
    module = sequential().train()
    gt.from_torch(module)
    assert all(child.training for child in module.modules())
    assert all(parameter.grad is None for parameter in module.parameters())


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = nn.Linear(4, 4)

    def forward(self, x):
        return x * self.inner(x)


REFUSED = [
    (lambda: nn.Sequential(nn.Linear(4, 4), Block()), r"layer 'mul' \(test_interop_torch.py:121\): a mul cannot be represented; gt.watch\(model\) takes any module"),
    (lambda: nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4, track_running_stats=False)), "without running statistics"),
    (lambda: nn.Sequential(nn.Sequential(nn.ReLU()), nn.Linear(4, 4)), "layer '0.0': a relu before the first linear layer"),
    (lambda: nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Tanh()), "layer '2': a tanh behind a relu"),
    (lambda: nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.LayerNorm(4)), "layer '2': a normalisation is represented between"),
    (lambda: nn.Sequential(nn.Linear(4, 4), nn.LayerNorm(4, eps=0)), "layer '1': expected epsilon 1e-05, got 0"),
    (lambda: nn.Sequential(nn.Linear(4, 4), nn.LeakyReLU(1e-30)), "layer '1': negative_slope: expected a number, the slope"),
    (lambda: nn.Sequential(nn.Linear(4, 4), nn.ELU(float("inf"))), "layer '1': alpha: expected a number, the alpha"),
    (lambda: nn.Sequential(nn.Linear(4, 4), nn.GELU("tanh")), "layer '1': a GELU is represented with approximate=none only"),
    (lambda: nn.Sequential(nn.Linear(4, 4), nn.Linear(5, 4)), "layer '1': expected 4 inputs to follow the layer before, got 5"),
    (lambda: nn.Sequential(nn.Linear(4, 4).half()), "layer '0': expected float32 or float64 parameters, but weight is"),
    (lambda: nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4).double()), "layer '1': expected float32 as in the first layer"),
    (lambda: nn.Sequential(nn.Conv2d(1, 1, 3)), "layer '0': a Conv2d cannot be represented: gradtrace has no such layer"),
    (lambda: nn.LSTM(3, 4, proj_size=2), "layer 'LSTM': expected proj_size=0, got 2"),
    (lambda: nn.Sequential(nn.ReLU()), "layer '0': a relu before the first linear layer"),
    (lambda: nn.Sequential(), "expected at least one linear layer, got none"),
    (lambda: Block(), "a mul cannot be represented"),
]  # fmt: skip


@pytest.mark.parametrize(("build", "message"), REFUSED)
def test_what_cannot_be_represented_is_refused_by_name(build, message):
    with pytest.raises(ValueError, match=message):
        gt.from_torch(build())


def test_no_module():
    with pytest.raises(TypeError, match=r"module: expected a torch.nn.Module, got list"):
        gt.from_torch([nn.Linear(2, 2)])


def test_a_hook_that_changes_the_output_is_noticed():
    module = nn.Sequential(nn.Linear(4, 4), nn.Tanh())
    module[0].register_forward_hook(lambda layer, inputs, output: output * 2)
    with pytest.raises(ValueError, match=r"got others by .* likely cause: a hook"):
        gt.from_torch(module)
    assert gt.from_torch(module, check=False).activation == ("tanh",)


def test_a_mismatch_names_the_likely_cause():
    stack = gt.Stack.random([6, 6, 6], "tanh", seed=0)
    wrong = gt.Stack([stack.weights[0], np.ascontiguousarray(stack.weights[1].T)], stack.biases, stack.activation)
    with pytest.raises(ValueError, match="likely cause: the weight of layer 1 is transposed"):
        check_agreement(stack, wrong.forward, "another")
    lstm = gt.LSTM.random(3, 4, seed=0)
    order = [0, 2, 1, 3]

    def swapped(arrays):
        return [np.concatenate([np.split(array, 4)[block] for block in order]) for array in arrays]

    names = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
    other = lstm.replaced(**{name: swapped(getattr(lstm, name)) for name in names})
    with pytest.raises(ValueError, match="likely cause: the gates stand in the order i, g, f, o, not i, f, g, o"):
        check_agreement(lstm, lambda x: other.forward(x)[0], "another")
