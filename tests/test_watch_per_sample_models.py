"""Gradients of weights per sample in whole models: calls, checkpoints, losses, and what is refused."""

import copy
import gc
import weakref

import numpy as np
import pytest
from tolerances import assert_close

import gradtrace as gt

torch = pytest.importorskip("torch")
from per_sample_by_func import BITS, by_func, watched  # noqa: E402

nn = torch.nn


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
    again = watch.trace().per_sample
    assert all(np.array_equal(norms, again[name]) for name, norms in trace.per_sample.items())


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
