"""Gradients of weights per sample in a watched model, against torch.func's, which runs the model for each sample."""

import copy
from itertools import product

import numpy as np
import pytest
from tolerances import assert_close, tolerance

import gradtrace as gt

torch = pytest.importorskip("torch")
from per_sample_by_func import BITS, agrees, by_func, watched  # noqa: E402

nn = torch.nn


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
