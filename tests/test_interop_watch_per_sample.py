"""Gradients of weights per sample in a watched model, against torch.func's, which runs the model for each sample."""

import copy
import gc
import weakref
from itertools import product

import numpy as np
import pytest
from tolerances import assert_close, tolerance

import gradtrace as gt

torch = pytest.importorskip("torch")
nn = torch.nn
BITS = tolerance("per sample", "log2")


def by_func(module, x, u, name="weight", axis=0):
    """log2 of the norms of d(sum of u y)/d(weight), each sample on its own."""

    def loss(parameters, x, u):
        return (torch.func.functional_call(module, parameters, (x.unsqueeze(axis),)) * u.unsqueeze(axis)).sum()

    parameters = {key: one.detach() for key, one in module.named_parameters()}
    gradients = torch.func.vmap(torch.func.grad(loss), in_dims=(None, axis, axis))(parameters, x, u)
    return gradients[name].flatten(1).norm(dim=1).log2().numpy()


def watched(module, x, u, **options):
    with gt.watch(module, **{"per_sample": True} | options) as watch:
        (module(x) * u).sum().backward()
        return watch.trace()


def agrees(module, x, axis=0, limit=BITS, **options):
    module, x = module.double(), x.double()
    u = torch.randn_like(module(x))
    trace = watched(module, x, u, **options)
    (got,) = trace.per_sample.values()
    assert got.dtype == np.float64
    assert not got.flags.writeable
    assert trace.notes == ()
    assert_close(got, by_func(module, x, u, axis=axis), limit, repr(module))


# --- linear maps ---


@pytest.fixture
def ways(monkeypatch):
    """Names of the ways that norms were taken, in the order of their calls."""
    from gradtrace.watch import sample_norms

    taken = []
    for function in (sample_norms._norms_formed, sample_norms._squares_by_pairs):

        def spied(*given, function=function):
            taken.append(function.__name__)
            return function(*given)

        monkeypatch.setattr(sample_norms, function.__name__, spied)
    return taken


@pytest.mark.filterwarnings("ignore:Using padding='same':UserWarning")  # PyTorch's, of even kernels
@pytest.mark.parametrize("places", ["many", "few"])
@pytest.mark.parametrize("mode", ["zeros", "reflect", "replicate", "circular"])
@pytest.mark.parametrize("axes", [1, 2, 3])
def test_convolutions(axes, mode, places, ways):
    """Many places of few channels have their gradients formed, few places of many channels are taken by pairs."""
    torch.manual_seed(axes)
    kind, wide = getattr(nn, f"Conv{axes}d"), places == "few"
    options = product((1, 2), (1, 2), (0, 1, "same", "valid"), (1, 2))
    for groups, stride, padding, dilation in options:
        if padding == "same" and stride > 1:
            continue
        channels = (24, 32) if wide else (4, 6)
        kernel = [(2, 3, 2), (3, 2, 1), (1, 3, 3)][groups + dilation - 2][:axes]
        module = kind(*channels, kernel, stride, padding, dilation, groups, bias=groups == 1, padding_mode=mode)
        sides = (5, 6, 5)[:axes] if wide or axes == 3 else (13, 9)[:axes]
        agrees(module, torch.randn(3, channels[0], *sides))
    assert ("_squares_by_pairs" if wide else "_norms_formed") in ways
    assert wide or set(ways) == {"_norms_formed"}


@pytest.mark.parametrize("places", ["many", "few"])
@pytest.mark.parametrize("axes", [1, 2, 3])
def test_transposed_convolutions(axes, places, ways):
    torch.manual_seed(axes)
    kind, wide = getattr(nn, f"ConvTranspose{axes}d"), places == "few"
    for groups, stride, padding, dilation, more in product((1, 2), (1, 3), (0, 1), (1, 2), (0, 1)):
        if more >= max(stride, dilation):
            continue
        channels = (40, 32) if wide else (4, 6)
        kernel = [(3, 2, 2), (2, 3, 3)][groups - 1][:axes]
        module = kind(*channels, kernel, stride, padding, more, groups, dilation=dilation)
        agrees(module, torch.randn(3, channels[0], *((3, 2, 2) if wide else (7, 6, 4))[:axes]))
    assert ("_squares_by_pairs" if wide else "_norms_formed") in ways


def test_a_transposed_convolution_asked_for_a_size():
    torch.manual_seed(0)
    module, x, u = (
        nn.ConvTranspose2d(4, 3, 3, stride=2).double(),
        *(torch.randn(2, n, m, m).double() for n, m in ((4, 5), (3, 12))),
    )
    with gt.watch(module, per_sample=True) as watch:
        (module(x, output_size=(12, 12)) * u).sum().backward()
        (got,) = watch.trace().per_sample.values()
    larger = copy.deepcopy(module)
    larger.output_padding = (1, 1)
    assert_close(got, by_func(larger, x, u), BITS)


@pytest.mark.parametrize("shape", [(1, 6), (9, 6), (5, 3, 6), (4, 2, 3, 6), (3, 1, 40), (3, 7, 40)])
def test_linear_layers(shape):
    torch.manual_seed(0)
    agrees(nn.Linear(shape[-1], 8 if shape[-1] == 6 else 50), torch.randn(shape))


def test_time_in_front():
    torch.manual_seed(0)
    agrees(nn.Linear(6, 8), torch.randn(7, 3, 6), axis=1, sample_axis=1)
    agrees(nn.Linear(6, 8), torch.randn(7, 6), sample_axis=1)  # no time, only samples


def test_one_sample_without_an_axis_of_samples():
    torch.manual_seed(0)
    for module, shape in (
        (nn.Linear(6, 8), (6,)),
        (nn.Conv2d(2, 3, 3), (2, 5, 5)),
        (nn.ConvTranspose1d(2, 3, 3), (2, 5)),
    ):
        x = torch.randn(shape, dtype=torch.float64)
        u = torch.randn_like(module.double()(x))
        (got,) = watched(module, x, u).per_sample.values()
        assert_close(got, np.log2([module.weight.grad.norm().item()]), BITS)


@pytest.mark.parametrize("entries", [1, 200])
def test_bounded_memory_changes_nothing(entries, monkeypatch):
    """As many pieces as there are samples, and pieces of samples."""
    from gradtrace.watch import sample_norms

    monkeypatch.setattr(sample_norms, "_MOST_ENTRIES", entries)
    torch.manual_seed(0)
    agrees(nn.Conv2d(4, 6, 3), torch.randn(9, 4, 7, 7))
    agrees(nn.Conv2d(24, 32, 3, groups=2), torch.randn(9, 24, 4, 4))
    agrees(nn.Linear(6, 8), torch.randn(5, 9, 6))
    agrees(nn.Linear(40, 50), torch.randn(5, 7, 40))


@pytest.mark.parametrize("held_as", [torch.float32, torch.bfloat16, torch.float16])
def test_other_formats(held_as):
    """Products in float32 of the numbers as they are: the same as of their float64 copies."""
    torch.manual_seed(0)
    from gradtrace.watch.sample_norms import log2_sample_norms

    for module, shape in (
        (nn.Conv2d(4, 6, 3), (5, 4, 17, 17)),
        (nn.Conv2d(24, 32, 3), (5, 24, 4, 4)),
        (nn.Linear(6, 8), (5, 300, 6)),
        (nn.Linear(40, 50), (5, 7, 40)),
    ):
        x, u = torch.randn(shape), torch.randn_like(module(torch.randn(shape)))
        x, u = x.to(held_as), u.to(held_as)
        exact = log2_sample_norms(module, x.double(), u.double())
        assert_close(log2_sample_norms(module, x, u).numpy(), exact.numpy(), tolerance("per sample", "log2", "float32"))


def test_autocast_around_the_backward_pass_rounds_nothing():
    torch.manual_seed(0)
    module, x = nn.Linear(40, 50), torch.randn(5, 7, 40)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y = module(x)
        (got,) = watched(module, x, torch.ones_like(y)).per_sample.values()
    u = torch.ones(5, 7, 50, dtype=torch.float64)
    exact = by_func(copy.deepcopy(module).double(), x.double(), u)
    assert_close(got, exact, tolerance("per sample", "log2", "float32"))


# --- range ---


@pytest.mark.parametrize("shape", [(6, 8, 9), (40, 50, 3), (40, 50, 1)], ids=["formed", "by pairs", "one row"])
@pytest.mark.parametrize("low", [-1000, 900])
def test_sizes_beyond_what_squares_hold(shape, low):
    torch.manual_seed(0)
    inputs, outputs, rows = shape
    module, x = nn.Linear(inputs, outputs).double(), torch.randn(3, rows, inputs).double()
    u = torch.randn(3, rows, outputs).double()
    exact = by_func(module, x, u)
    (got,) = watched(module, x, torch.ldexp(u, torch.tensor(low))).per_sample.values()
    assert_close(got, exact + low, BITS)
    (got,) = watched(module, torch.ldexp(x, torch.tensor(low)), u).per_sample.values()
    assert_close(got, exact + low, BITS)


@pytest.mark.parametrize("channels", [(4, 6), (24, 32)], ids=["formed", "by pairs"])
def test_small_gradients_that_meet_large_inputs_are_no_zeros(channels):
    """Where the gradient is large the input is 2^-100, and the other way round: each product is 2^-100."""
    torch.manual_seed(0)
    module = nn.Conv2d(*channels, 1, bias=False)
    x, u = torch.randn(2, channels[0], 2, 2), torch.randn(2, channels[1], 2, 2)
    x[..., 0] *= 2.0**-100
    u[..., 1] *= 2.0**-100
    (got,) = watched(module, x, u).per_sample.values()
    x[..., 0] *= 2.0**100
    u[..., 1] *= 2.0**100
    module = module.double()
    assert_close(got, by_func(module, x.double(), u.double()) - 100, tolerance("per sample", "log2", "float32"))


@pytest.mark.parametrize("shape", [(6, 8, 90), (40, 50, 4)], ids=["formed", "by pairs"])
def test_rows_that_cancel(shape):
    """Two halves that add up to nothing but a part of 2^-30: by pairs it would be rounding."""
    torch.manual_seed(0)
    inputs, outputs, rows = shape
    x, u = torch.randn(3, rows // 2, inputs).double(), torch.randn(3, rows // 2, outputs).double()
    tiny = torch.randn(3, rows // 2, outputs).double()
    whole = torch.cat([u + 2.0**-30 * tiny, -u], dim=1)
    (got,) = watched(nn.Linear(inputs, outputs).double(), torch.cat([x, x], dim=1), whole).per_sample.values()
    left = by_func(nn.Linear(inputs, outputs).double(), x, whole[:, : rows // 2] + whole[:, rows // 2 :])
    assert_close(got, left, 2**30 * tolerance("recomputed", "sums"))


def test_zeros_and_no_numbers():
    torch.manual_seed(0)
    for module, shape in (
        (nn.Linear(6, 8), (5, 3, 6)),
        (nn.Linear(40, 50), (5, 3, 40)),
        (nn.Conv2d(4, 6, 3), (5, 4, 8, 8)),
        (nn.Conv2d(24, 32, 3), (5, 24, 4, 4)),
        (nn.ConvTranspose1d(4, 6, 3), (5, 4, 8)),
    ):
        x = torch.randn(shape)
        u = torch.randn_like(module(x))
        x[1], u[2], u[3] = 0, 0, torch.nan
        u[4, 0] = torch.inf
        (got,) = watched(module, x, u).per_sample.values()
        assert np.isfinite(got[0])
        assert np.isneginf(got[1:3]).all()
        assert np.isposinf(got[3:]).all()


# --- in a model ---


def model():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(2, 4, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(4, 4, 3, padding=1),
        nn.Tanh(),
        nn.Flatten(),
        nn.Linear(100, 3),
    ).double()


def images(samples=6):
    return torch.randn(samples, 2, 5, 5, dtype=torch.float64), torch.arange(samples) % 3


def one_by_one(net, x, y, names=("0", "2", "5")):
    """Each sample's part of the mean loss, one backward pass for each of them."""
    parts = {name: [] for name in names}
    for sample, label in zip(x, y, strict=True):
        net.zero_grad()
        (nn.functional.cross_entropy(net(sample[None]), label[None]) / len(x)).backward()
        for name, norms in parts.items():
            norms.append(np.log2(net.get_submodule(name).weight.grad.norm().item()))
    net.zero_grad()
    return parts


def test_every_layer_of_a_network_that_learns():
    net, (x, y) = model(), images()
    optimiser = torch.optim.SGD(net.parameters(), 0.1)
    with gt.watch(net, per_sample=True) as watch:
        for _ in range(3):
            expected = one_by_one(copy.deepcopy(net), x, y)
            optimiser.zero_grad()
            nn.functional.cross_entropy(net(x), y).backward()
            optimiser.step()
            trace = watch.trace()
            assert list(trace.per_sample) == ["0", "2", "5"]
            for name, norms in expected.items():
                assert_close(trace.per_sample[name], np.array(norms), BITS, name)
    assert all(trace.per_sample[name] is watch.trace().per_sample[name] or
               np.array_equal(trace.per_sample[name], watch.trace().per_sample[name]) for name in trace.per_sample)  # fmt: skip


def test_nothing_else_changes():
    net, (x, y) = model(), images()
    traces = []
    for asked in (False, True):
        net.zero_grad()
        with gt.watch(net, per_sample=asked) as watch:
            nn.functional.cross_entropy(net(x), y).backward()
            traces.append(watch.trace())
    assert repr(traces[0].modules) == repr(traces[1].modules)
    assert len(traces[0].per_sample) == 0
    with pytest.raises(KeyError, match="per_sample=True"):
        traces[0].per_sample["0"]
    with pytest.raises(KeyError, match="expected one of '0', '2', '5', got '7'"):
        traces[1].per_sample["7"]
    assert repr(traces[1].per_sample) == "PerSample({'0': 6 samples, '2': 6 samples, '5': 6 samples})"


def test_modules_named():
    net = nn.ModuleDict({"body": model(), "head": nn.Linear(3, 2, dtype=torch.float64)})
    x, _ = images()
    for asked, names in (
        (["head"], ["head"]),
        (["body"], ["body.0", "body.2", "body.5"]),
        (["body.5", "head"], ["body.5", "head"]),
    ):
        with gt.watch(net, per_sample=asked) as watch:
            net["head"](net["body"](x)).sum().backward()
            assert list(watch.trace().per_sample) == names


def test_calls_of_one_module_have_their_own():
    torch.manual_seed(0)
    cell, x = nn.Linear(4, 4).double(), torch.randn(5, 4).double()
    copies = [copy.deepcopy(cell) for _ in range(3)]
    with gt.watch(cell, per_sample=True) as watch:
        y = x
        for _ in range(3):
            y = torch.tanh(cell(y))
        y.square().mean().backward()
        got = watch.trace().per_sample
    assert list(got) == ["Linear#0", "Linear#1", "Linear#2"]
    for b in range(5):
        y = x[b : b + 1]
        for one in copies:
            one.zero_grad()
            y = torch.tanh(one(y))
        (y.square().sum() / 20).backward()
        for k, one in enumerate(copies):
            assert_close(got[f"Linear#{k}"][b], np.log2(one.weight.grad.norm().item()), BITS)


@pytest.mark.parametrize("reentrant", [True, False])
def test_checkpoints(reentrant):
    net, (x, y) = model(), images()
    x.requires_grad_()
    expected = one_by_one(net, x, y)

    class Saving(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = net

        def forward(self, x):
            half = torch.utils.checkpoint.checkpoint(self.net[:4], x, use_reentrant=reentrant)
            return self.net[4:](half)

    with gt.watch(Saving(), per_sample=True) as watch:
        nn.functional.cross_entropy(watch.model(x), y).backward()
        got = watch.trace().per_sample
    assert sorted(got) == ["net.0", "net.2", "net.5"]
    for name, norms in expected.items():
        assert_close(got[f"net.{name}"], np.array(norms), BITS, name)


def test_two_losses_are_told_apart_and_second_orders_are_not_known():
    net, (x, y) = model(), images()
    x.requires_grad_()
    first = one_by_one(copy.deepcopy(net), x.detach(), y)
    with gt.watch(net, per_sample=True) as watch:
        out = net(x)
        nn.functional.cross_entropy(out, y).backward(retain_graph=True)
        (2 * nn.functional.cross_entropy(out, y)).backward(retain_graph=True)
        (dx,) = torch.autograd.grad(out.sum(), x, create_graph=True)
        dx.square().sum().backward()
        for name, norms in first.items():
            assert_close(watch.trace(backward=0).per_sample[name], np.array(norms), BITS, name)
            assert_close(watch.trace(backward=1).per_sample[name], np.array(norms) + 1, BITS, name)
            assert np.isnan(watch.trace(backward=-1).per_sample[name]).all()
        assert np.isfinite(watch.trace(backward=2).per_sample["0"]).all()
        assert any("per_sample: not known" in note for note in watch.trace(backward=-1).notes)


def test_what_no_gradient_reached_is_not_known():
    net, (x, _) = model(), images()
    with gt.watch(net, per_sample=True) as watch:
        unused, first = net(x), net[0](x)
        net[2](first.detach()).sum().backward()
        got = watch.trace().per_sample
    assert got["0#0"].shape == (len(unused),)
    for name, norms in got.items():
        assert np.isfinite(norms).all() if name == "2#1" else np.isnan(norms).all()


def test_parametrised_weights_count_as_they_are_used():
    torch.manual_seed(0)
    plain, x = nn.Linear(4, 6).double(), torch.randn(5, 4).double()
    module = torch.nn.utils.parametrizations.spectral_norm(copy.deepcopy(plain))
    u, before = torch.randn(5, 6).double(), {name: one.clone() for name, one in module.named_buffers()}
    module.eval()
    (got,) = watched(module, x, u).per_sample.values()
    assert_close(got, by_func(plain, x, u), BITS)  # g a^T, whatever the weight is
    assert all(torch.equal(one, before[name]) for name, one in module.named_buffers())


def test_another_forward_pass_is_not_taken_for_a_linear_map():
    class Twice(nn.Linear):
        def forward(self, x):
            return super().forward(2 * x)

    module = nn.Sequential(Twice(3, 3), nn.Linear(3, 3))
    with gt.watch(module, per_sample=True) as watch:
        module(torch.randn(4, 3)).sum().backward()
        assert list(watch.trace().per_sample) == ["1"]


def test_an_output_that_a_hook_changed_is_said():
    net, (x, y) = model(), images()
    expected = one_by_one(copy.deepcopy(net), x, y)
    handles = [net[0].register_forward_hook(lambda module, given, output: None)]
    handles += [net[5].register_forward_hook(lambda module, given, output: 2 * output)]
    with gt.watch(net, per_sample=True) as watch:
        nn.functional.cross_entropy(net(x), y).backward()
        trace = watch.trace()
        nn.functional.cross_entropy(net[5](net[:5](x)) / 2, y).backward()
        again = watch.trace()
    assert np.isnan(trace.per_sample["5"]).all()
    assert np.isfinite(trace.per_sample["0"]).all()
    assert [note for note in trace.notes if "hook" in note] == [note for note in again.notes if "hook" in note]
    assert_close(again.per_sample["0"], np.array(expected["0"]), BITS)
    assert len([note for note in trace.notes if note.startswith("5: a hook changed its output")]) == 1
    for handle in handles:
        handle.remove()


def test_inputs_are_let_go_when_the_step_is_over():
    net, (x, y) = model(), images()
    seen = []
    handle = net[2].register_forward_hook(lambda module, given, output: seen.append(weakref.ref(given[0])))
    with gt.watch(net, per_sample=True, inside=False) as watch:
        nn.functional.cross_entropy(net(x), y).backward()
        gc.collect()
        assert seen[0]() is None or watch._recorder.step.samples.held
        held = sum(one.bytes for one in watch._recorder.step.samples.held.values())
        assert held == x.numel() * 8 + 6 * 4 * 25 * 8 + 6 * 100 * 8
        step = watch._recorder.step
        nn.functional.cross_entropy(net(x), y).backward()
        assert not step.samples.held
        assert watch._recorder.step.samples.held
    assert not watch._recorder.last.samples.held
    assert np.isfinite(watch.trace().per_sample["0"]).all()
    handle.remove()


def test_what_does_not_fit_is_said():
    net, (x, y) = model(), images()
    with gt.watch(net, per_sample=True, inside=False, most_bytes=x.numel() * 8 + 10) as watch:
        nn.functional.cross_entropy(net(x), y).backward()
        trace = watch.trace()
    assert np.isfinite(trace.per_sample["0"]).all()
    assert np.isnan(trace.per_sample["2"]).all()
    assert sum("no room for its gradients per sample" in note for note in trace.notes) == 2


def test_an_input_that_was_changed_is_said():
    net = nn.Linear(3, 3)
    net.weight.requires_grad_(False)  # else autograd refuses it
    x = torch.randn(4, 3)
    with gt.watch(net, per_sample=True) as watch:
        y = net(x)
        x.mul_(2)
        y.sum().backward()
        trace = watch.trace()
    assert np.isnan(trace.per_sample["Linear"]).all()
    assert any("changed in place" in note for note in trace.notes)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"per_sample": 1}, TypeError, r"^per_sample: expected a list of names, got int"),
        ({"per_sample": ["1"]}, ValueError, r"^per_sample: expected True, or names of linear layers"),
        ({"per_sample": ["0"], "only": ["5"]}, ValueError, r"^per_sample: "),
        ({"per_sample": [0]}, TypeError, r"^per_sample: "),
        ({"per_sample": True, "sample_axis": 2}, ValueError, r"^sample_axis: expected 0 or 1, got 2"),
        ({"per_sample": True, "sample_axis": True}, TypeError, r"^sample_axis: "),
        ({"per_sample": True, "sample_axis": "0"}, TypeError, r"^sample_axis: "),
    ],
)
def test_arguments_that_do_not_fit_are_refused(options, error, message):
    with pytest.raises(error, match=message):
        gt.watch(model(), **options)
