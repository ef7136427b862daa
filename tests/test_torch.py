"""PyTorch's float64 autograd gives the same gradients and losses, where it can hold them."""

import numpy as np
import pytest
from portable_cases import build, random_layers
from reference import SELU_ALPHA, SELU_LAMBDA
from tolerances import assert_close, tolerance

from gradtrace.activations import ACTIVATIONS as TABLE

torch = pytest.importorskip("torch", reason="PyTorch is not installed")

# The module that the table names first, with its parameter; of erf PyTorch has a function only.
ACTIVATIONS = {name: getattr(torch.nn, row.torch.split()[0], None) for name, row in TABLE.items() if row.torch}
ACTIVATIONS |= {
    "linear": torch.nn.Identity,
    "leaky_relu:0.3": lambda: torch.nn.LeakyReLU(0.3), "leaky_relu:-0.5": lambda: torch.nn.LeakyReLU(-0.5),
    "elu:0.5": lambda: torch.nn.ELU(0.5), "elu:2.0": lambda: torch.nn.ELU(2.0),
}  # fmt: skip


class Erf(torch.nn.Module):
    def forward(self, z):
        return torch.erf(z)


def autograd(layers, x, loss_of):
    """dL/dz and dL/dW, dL/db of every layer, dL/dx and the loss."""
    modules, zs = [], []
    for weight, bias, name in layers:
        linear = torch.nn.Linear(*weight.shape[::-1], bias=bias is not None, dtype=torch.float64)
        with torch.no_grad():
            linear.weight[:] = torch.from_numpy(weight)
            if bias is not None:
                linear.bias[:] = torch.from_numpy(bias)
        modules.append((linear, (ACTIVATIONS[name] or Erf)()))
    a = inputs = torch.tensor(x, requires_grad=True)
    for linear, activation in modules:
        zs.append(linear(a))
        zs[-1].retain_grad()
        a = activation(zs[-1])
    loss = loss_of(a)
    loss.backward()
    weights = [linear.weight.grad.numpy() for linear, _ in modules]
    biases = [linear.bias.grad.numpy() for linear, _ in modules if linear.bias is not None]
    return [z.grad.numpy() for z in zs], weights, biases, inputs.grad.numpy(), float(loss.detach())


def log2(array, axis=None):
    with np.errstate(divide="ignore"):
        return np.log2(np.linalg.norm(array, axis=axis))


def loss_case(kind, rng, rows, columns):
    """Keyword arguments of `trace`, and the loss in PyTorch."""
    if kind == "cross_entropy":
        labels = rng.integers(0, columns, rows)
        return {"target": labels, "loss": kind}, lambda y: torch.nn.functional.cross_entropy(
            y, torch.from_numpy(labels)
        )
    values = rng.standard_normal((rows, columns))
    if kind == "mse":
        return {"target": values, "loss": kind}, lambda y: torch.nn.functional.mse_loss(y, torch.from_numpy(values))
    return {"cotangent": values}, lambda y: (y * torch.from_numpy(values)).sum()


@pytest.mark.parametrize("kind", ["cotangent", "cross_entropy", "mse"])
@pytest.mark.parametrize("name", ACTIVATIONS)
def test_gradients_are_those_of_autograd(name, kind):
    rng = np.random.default_rng(12)
    layers = random_layers(rng, [9, 24, 17, 30, 8], name, gain=1.3, bias=0.4)
    x = rng.standard_normal((21, 9))
    given, loss_of = loss_case(kind, rng, 21, 8)
    got = build(layers).trace(x, **given, keep=("deltas",))
    deltas, weights, biases, dx, loss = autograd(layers, x, loss_of)
    limit = tolerance("torch", "log2")
    assert_close(got.log2_delta, np.array([log2(d, axis=1) for d in deltas]), limit)
    assert_close(got.log2_grad_weight, np.array([log2(w) for w in weights]), limit)
    assert_close(got.log2_grad_bias, np.array([log2(b) for b in biases]), limit)
    assert_close(got.log2_grad_input, log2(dx, axis=1), limit)
    for kept, delta in zip(got.deltas, deltas, strict=True):
        assert_close(kept.to_numpy(), delta, tolerance("gradient", "entries") * abs(delta).max())
    if kind != "cotangent":
        assert got.loss == pytest.approx(loss, rel=tolerance("torch", "loss"))


def test_float32_losses_are_those_of_torch():
    rng = np.random.default_rng(3)
    layers = random_layers(rng, [9, 24, 8], "tanh", "float32", output="linear")
    x = rng.standard_normal((500, 9)).astype("float32")
    stack = build(layers)
    y, labels = torch.from_numpy(stack.forward(x)), rng.integers(0, 8, 500)
    target = rng.standard_normal((500, 8)).astype("float32")
    limit = tolerance("torch", "loss", "float32")
    expected = torch.nn.functional.cross_entropy(y.double(), torch.from_numpy(labels))
    assert stack.trace(x, target=labels, loss="cross_entropy").loss == pytest.approx(float(expected), rel=limit)
    expected = torch.nn.functional.mse_loss(y.double(), torch.from_numpy(target).double())
    assert stack.trace(x, target=target, loss="mse").loss == pytest.approx(float(expected), rel=limit)


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_derivative_at_special_points_is_the_one_of_torch(name):
    z = np.array([[0.0, -0.0, 1.0, -1.0, 30.0, -30.0, 1e-30]])
    got = build([(np.eye(7), None, name)]).trace(z, cotangent=np.ones((1, 7)), keep=("deltas",))
    inputs = torch.tensor(z, requires_grad=True)
    (ACTIVATIONS[name] or Erf)()(inputs).sum().backward()
    # PyTorch computes 1 - tanh^2 and sigmoid (1 - sigmoid), which end at rounding of 1.
    assert_close(got.deltas[0].to_numpy(), inputs.grad.numpy(), tolerance("torch", "entries"))
    assert (SELU_ALPHA, SELU_LAMBDA) == (1.6732632423543772, 1.0507009873554805)
