"""Modules as people write them: the network has the module's outputs and autograd's gradients, or the line is named."""

import inspect

import numpy as np
import pytest
from tolerances import tolerance

import gradtrace as gt

torch = pytest.importorskip("torch")
import tutorial_modules  # noqa: E402  needs PyTorch
import tutorial_recurrent_modules  # noqa: E402
from tutorial_refusals import REFUSED  # noqa: E402

nn = torch.nn

# Layers whose weights are no longer the module's own: batch normalisations, scalings and sums became part of them.
FOLDED = {
    "flags": 1, "batch norms": 2, "layer norms, epsilon": 2, "sum before activation": 1, "post norm": 2,
    "standardised": 1, "pixels": 1, "pinn": 5, "generator": 1, "temperature": 1,
}  # fmt: skip
ENDS = {"LogSoftmax": torch.log_softmax, "Softmax": torch.softmax}


def made(build):
    torch.manual_seed(0)
    module = build().double()
    with torch.no_grad():
        for name, tensor in [*module.named_parameters(), *module.named_buffers()]:
            if "running_var" in name:
                tensor.uniform_(0.5, 2)
            elif "running_mean" in name or (tensor.dim() == 1 and "std" not in name):
                tensor.add_(0.1 * torch.randn_like(tensor))
    return module.eval()


def example(shape, samples=6):
    return torch.from_numpy(np.random.default_rng(1).standard_normal((samples, *shape)))


def output(y, notes):
    """The output that the notes say was taken."""
    if isinstance(y, dict):
        return next(value for key, value in y.items() if any(repr(key) in note for note in notes))
    if isinstance(y, tuple):
        return y[-1] if "of several outputs the last layer's" in notes else y[0]
    return y


def watched(module, x):
    """The inputs, the outputs, and the outputs of all linear layers in order of their calls, which keep gradients."""
    outputs, x = [], x.clone().requires_grad_()

    def keep(layer, inputs, result):
        result.retain_grad()
        outputs.append((layer, result))
        return result.clone()  # an activation in place would change it

    hooks = [layer.register_forward_hook(keep) for layer in module.modules() if isinstance(layer, nn.Linear)]
    y = module(x)
    for hook in hooks:
        hook.remove()
    return x, y, outputs


def as_cotangent(net, x, end, weights):
    """dL/dy of our network for L = sum(weights * end(y))."""
    y = torch.from_numpy(net.forward(x)).requires_grad_()
    z = end(y, -1) if end is not None else y
    (z.reshape(weights.shape) * weights).sum().backward()
    return y.grad.numpy()


def own_parameter(module, weight):
    return next((p for p in module.parameters() if p.dim() == 2 and any(
        a.shape == weight.shape and np.array_equal(a, weight) for a in (p.detach().numpy(), p.detach().numpy().T)
    )), None)  # fmt: skip


@pytest.mark.filterwarnings("ignore:.*DataParallel.*deprecated")
@pytest.mark.parametrize("name", tutorial_modules.TAKEN)
def test_the_network_is_the_module(name):
    build, shape = tutorial_modules.TAKEN[name]
    module, given = made(build), example(shape)
    net = gt.from_torch(module, given)
    x, y, outputs = watched(module, given)
    y = output(y, net.notes)
    end = next((ENDS[note.split(": ")[1]] for note in net.notes if "left out at the end" in note), None)
    flat = np.ascontiguousarray(given.numpy().reshape(len(given), -1))
    got = net.forward(flat)
    logits = got if end is None else end(torch.from_numpy(got), -1).numpy()
    assert np.abs(logits.reshape(y.shape) - y.detach().numpy()).max() < tolerance("torch", "entries")
    weights = torch.from_numpy(np.random.default_rng(3).standard_normal(y.shape))
    (y * weights).sum().backward()
    trace = net.trace(flat, cotangent=as_cotangent(net, flat, end, weights))
    close = tolerance("torch", "log2")
    assert np.abs(trace.log2_grad_input - x.grad.reshape(len(x), -1).norm(dim=1).log2().numpy()).max() < close
    compared = 0
    for layer, weight in enumerate(net.weights):
        parameter = own_parameter(module, weight)
        if parameter is None:
            continue
        compared += 1
        if not any("several times" in note for note in net.notes):
            assert abs(trace.log2_grad_weight[layer] - parameter.grad.norm().log2().item()) < close
        if outputs:
            delta = outputs[layer][1].grad.reshape(len(x), -1).norm(dim=1).log2().numpy()
            assert np.abs(trace.log2_delta[layer] - delta).max() < close
    assert compared == net.depth - FOLDED.get(name, 0)
    assert bool(net.notes) or not FOLDED.get(name)


def inputs_of(net, lengths):
    """Tokens or values, as the network takes them."""
    generator = np.random.default_rng(1)
    shape = (5, 7) if net.batch_first else (7, 5)
    if net.embedding is not None:
        return generator.integers(0, len(net.embedding), shape)
    return generator.standard_normal((*shape, net.input_size))


def further(module, steps, samples):
    """What the forward pass demands beside the sequences, and the lengths among it."""
    demanded = list(inspect.signature(module.forward).parameters.values())[1:]
    names = [one.name for one in demanded if one.default is one.empty]
    lengths = np.minimum(np.array([7, 6, 6, 3, 1]), steps) if "lengths" in names else None
    rest = [torch.from_numpy(lengths)] if lengths is not None else []
    if "hidden" in names:
        zeros = torch.zeros(2, samples, tutorial_recurrent_modules.H, dtype=torch.float64)
        rest.append((zeros, zeros))
    return rest, lengths


def cotangent_at_outputs(net, x, y, lengths, weights, end):
    """dL/dh of our network, by PyTorch's backward pass through its readout alone: at the last step or at every one."""
    every = any("every step" in note for note in net.notes)
    outputs, states = net.forward(x, lengths=lengths)
    h = states[0] if isinstance(states, tuple) else states
    last = np.concatenate(list(h[-(1 + net.bidirectional) :]), axis=1)
    h = torch.from_numpy(np.ascontiguousarray(outputs if every else last)).requires_grad_()
    z, readout = h, net.readout
    for weight, bias, name in zip(readout.weights, readout.biases, readout.activation, strict=True):
        z = torch.nn.functional.linear(z, torch.from_numpy(weight), None if bias is None else torch.from_numpy(bias))
        z = {"linear": lambda z: z, "relu": torch.relu, "sigmoid": torch.sigmoid}[name](z)
    z = z if end is None else end(z, -1)
    assert np.abs(z.detach().numpy().reshape(y.shape) - y.detach().numpy()).max() < tolerance("torch", "entries")
    (z.reshape(weights.shape) * weights).sum().backward()
    return h.grad.numpy()


@pytest.mark.parametrize("name", tutorial_recurrent_modules.TAKEN)
def test_the_recurrent_network_is_the_module(name):
    module = made(tutorial_recurrent_modules.TAKEN[name])
    net = gt.from_torch(module)
    x = inputs_of(net, None)
    steps, samples = x.shape[1::-1] if net.batch_first else x.shape[:2]
    rest, lengths = further(module, steps, samples)
    given = torch.from_numpy(x)
    given = given if net.embedding is not None else given.requires_grad_()
    y = output(module(given, *rest), net.notes)
    if lengths is not None and y.dim() == 3:  # what stands behind the ends is in no loss
        y = y * (torch.arange(steps)[:, None] < rest[0])[:, :, None]
    weights = torch.from_numpy(np.random.default_rng(3).standard_normal(y.shape))
    (y * weights).sum().backward()
    end = next((ENDS[note.split(": ")[1]] for note in net.notes if "left out at the end" in note), None)
    if lengths is not None and y.dim() == 3:
        masked = (np.arange(steps)[:, None] < lengths)[:, :, None]
        weights = weights * torch.from_numpy(masked)
        y = module(given, *rest)
        full = net.forward(x, lengths=lengths)[0]
        seen = net.readout.forward(np.ascontiguousarray(full).reshape(-1, full.shape[-1])).reshape(y.shape)
        assert np.abs((seen - y.detach().numpy()) * masked).max() < tolerance("torch", "entries")
        y = torch.from_numpy(seen)
    cotangent = cotangent_at_outputs(net, x, y, lengths, weights, end)
    trace = net.trace(x, cotangent=cotangent, lengths=lengths)
    close = tolerance("torch", "log2")
    cells = [one for one in module.modules() if isinstance(one, (nn.LSTM, nn.GRU, nn.RNN))]
    own = [p for cell in cells for key, p in cell.named_parameters() if key.startswith("weight_hh")]
    assert len(own) == len(net.weight_hh)
    for layer, parameter in enumerate(own):
        assert np.array_equal(net.weight_hh[layer], parameter.detach().numpy())
        assert abs(trace.log2_grad_weight_hh[layer] - parameter.grad.norm().log2().item()) < close
    if net.embedding is None:
        dx = given.grad.norm(dim=2).log2().numpy()
        dx = dx.T if net.batch_first else dx
        assert np.array_equal(np.isinf(dx), np.isinf(trace.log2_dx))
        assert np.abs(np.subtract(trace.log2_dx, dx, where=np.isfinite(dx), out=np.zeros_like(dx))).max() < close


def test_two_thirds_of_the_ordinary_ones_come_through():
    taken = len(tutorial_modules.TAKEN) + len(tutorial_recurrent_modules.TAKEN)
    assert taken >= 40
    assert taken >= 2 / 3 * (taken + len(REFUSED))


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_refused_is_told_with_its_line(name):
    kind = REFUSED[name]
    lines, first = inspect.getsourcelines(kind)
    line = next(first + at for at, text in enumerate(lines) if text.rstrip().endswith("# here"))
    file = inspect.getsourcefile(kind).rpartition("/")[2]
    torch.manual_seed(0)
    with pytest.raises(ValueError, match=rf"^layer '\w+' \({file}:{line}\): .*gt.watch\(model\) takes any module$"):
        gt.from_torch(kind())
