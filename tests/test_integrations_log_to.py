"""Steps of a watch given to writers: each once, under keys that stay, as numbers that a chart can show."""

import contextlib
import math

import numpy as np
import pytest
from tolerances import tolerance

import gradtrace as gt

torch = pytest.importorskip("torch")
from logged_models import Recorder, layers, train  # noqa: E402

nn = torch.nn
BITS = tolerance("torch", "log2")


# When, and how often ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("before", [True, False])
@pytest.mark.parametrize("behind", [True, False])
@pytest.mark.parametrize("every", [1, 3])
def test_every_recorded_step_is_given_once_however_it_was_asked_for(before, behind, every):
    model, writer = layers(), Recorder()
    with gt.watch(model, every=every) as watched:
        if before:
            watched.log_to(writer)
            assert writer.rows == []
        train(model, 7, (lambda: watched.log_to(writer)) if behind else lambda: None)
        with torch.no_grad():
            model(torch.randn(2, 8))  # an evaluation begins no step
        if not (before or behind):
            watched.log_to(writer)
    expected = list(range(0, 7, every)) if before or behind else [6]
    assert writer.steps == expected
    watched.log_to(writer)
    assert writer.steps == expected
    other = Recorder()
    watched.log_to(other)
    watched.log_to(other)
    assert other.steps == [6]


def test_a_step_is_over_when_the_next_forward_pass_begins_or_the_context_ends():
    model, writer = layers(), Recorder()
    x = torch.randn(3, 8)
    with gt.watch(model) as watched:
        watched.log_to(writer)
        for count in (1, 2):
            model(x[:1])  # of the same step: no backward pass since
            model(x).sum().backward()
            assert writer.steps == list(range(count - 1))
        model(x)
        assert writer.steps == [0, 1]
    assert writer.steps == [0, 1]
    with contextlib.suppress(ZeroDivisionError), gt.watch(model) as watched:
        watched.log_to(writer)
        model(x).sum().backward()
        raise ZeroDivisionError
    assert writer.steps == [0, 1, 0]


def test_the_first_of_several_backward_passes_counts_unless_another_is_asked_for():
    model, writers = layers(), {None: Recorder(), 0: Recorder(), 1: Recorder(), -1: Recorder(), 2: Recorder()}
    x, expected = torch.randn(5, 8), []
    with gt.watch(model) as watched:
        for backward, writer in writers.items():
            watched.log_to(writer, backward=backward, figures=["log2_grad_output"], modules=["24"])
        for number in range(3):
            y = model(x)
            for scale in (1.0, 8.0, 64.0)[: number + 1]:
                (scale * y.sum()).backward(retain_graph=True)
                watched.log_to(writers[0])
            expected.append(watched.trace().modules[-1].log2_grad_output)

    def logged(backward):
        return [(step, figures["gradtrace/24/log2_grad_output"]) for step, figures in writers[backward].rows]

    assert logged(None) == logged(0) == list(enumerate(expected))
    assert logged(1) == [(step, pytest.approx(expected[step] + 3, abs=BITS)) for step in (1, 2)]
    assert logged(2) == [(2, pytest.approx(expected[2] + 6, abs=BITS))]
    assert logged(-1) == [(step, pytest.approx(expected[step] + 3 * step, abs=BITS)) for step in range(3)]


def test_derivatives_with_respect_to_inputs_are_not_the_losss():
    net, writer, last = nn.Sequential(nn.Linear(1, 16), nn.Tanh(), nn.Linear(16, 1)), Recorder(), Recorder()
    t = torch.linspace(0, 1, 20)[:, None].requires_grad_()
    frozen = nn.Sequential(nn.Linear(1, 4), nn.Tanh()).requires_grad_(False)
    with gt.watch(net) as watched:
        watched.log_to(writer)
        for _ in range(2):
            u = net(t)
            (du,) = torch.autograd.grad(u.sum(), t, create_graph=True)
            watched.log_to(writer)
            (ddu,) = torch.autograd.grad(du.sum(), t, create_graph=True)
            (ddu + u).square().mean().backward()
            watched.log_to(writer)
    assert writer.steps == [0, 1]
    key = "gradtrace/0/log2_grad_weight"
    assert writer.rows[1][1][key] == {row.name: row for row in watched.trace(backward=2).modules}["0"].log2_grad_weight
    with gt.watch(frozen) as watched:  # where none comes to parameters the first counts
        watched.log_to(last)
        frozen(t).sum().backward()
        watched.log_to(last)
        assert last.rows == []
    assert list(last.rows[0][1]) == ["gradtrace/log2_cotangent", "gradtrace/zeros", "gradtrace/0/log2_grad_output"]


def test_writers_made_anew_in_a_loop_are_one_and_two_of_one_maker_are_two():
    model, steps, kept = layers(), [], Recorder()

    def maker(rows):
        return lambda figures, step: rows.append(step)

    first, second = [], []
    with gt.watch(model) as watched:
        watched.log_to(maker(first))
        watched.log_to(maker(second))

        def behind():
            watched.log_to(lambda figures, step: steps.append(step))
            watched.log_to(kept.__call__)

        train(model, 4, behind)
    assert steps == kept.steps == first == second == [0, 1, 2, 3]
    watched.log_to(kept.__call__)
    assert kept.steps == [0, 1, 2, 3]


def test_writers_without_end_are_refused():
    model, rows = layers(), []
    with gt.watch(model) as watched:
        for number in range(64):
            watched.log_to(lambda figures, step, number=number: rows.append(number))
        with pytest.raises(ValueError, match="writer: expected at most 64 of a watch; a function that is made anew"):
            watched.log_to(lambda figures, step: None)
        train(model, 1)
    assert rows == list(range(64))
    watched.log_to(lambda figures, step: rows.append(step))
    assert rows[64:] == [0]


def test_options_stay_until_others_are_given_and_prefixes_are_logs_of_their_own():
    model, writer = layers(), Recorder()
    with gt.watch(model) as watched:
        watched.log_to(writer, "a/", modules=["4"], figures=["gain"], start=100)
        watched.log_to(writer, "b", modules=1)
        train(model, 1, lambda: watched.log_to(writer, "a"))
        watched.log_to(writer, "a", modules=["2"])
        train(model, 1)
    whole = {"log2_cotangent", "zeros"}
    assert [step for step, figures in writer.rows if "a/zeros" in figures] == [100, 101]
    keys = [set(figures) for _, figures in writer.rows]
    assert keys[0] == {f"a/{name}" for name in whole | {"4/gain"}}
    assert {f"a/{name}" for name in whole | {"2/gain"}} in keys
    assert keys[1] == {f"b/{name}" for name in whole | {"0/log2_grad_output", "0/log2_grad_weight"}}


# Which keys, and what numbers ------------------------------------------------------------------------------------------


def test_a_dozen_keys_by_default_the_same_at_every_step():
    model, writer = layers(), Recorder()
    with gt.watch(model) as watched:
        watched.log_to(writer)
        train(model, 2)
        model[8].requires_grad_(False)
        train(model, 2)
        trace = watched.trace()
    keys = [list(figures) for _, figures in writer.rows]
    assert len(keys[0]) == 12
    assert keys[0] == keys[1]
    names = {key.split("/")[1] for key in keys[0][2:]}
    assert names == {"0", "6", "12", "18", "24"}
    assert set(keys[3]) <= set(keys[0])
    rows = {module.name: module for module in trace.modules}
    for key, value in writer.rows[3][1].items():
        _, *name, figure = key.split("/")
        assert value == (getattr(rows[name[0]], figure) if name else {"zeros": 0}.get(figure, trace.log2_cotangent))


def test_modules_along_the_depth_are_of_one_kind():
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
    body = nn.TransformerEncoder(layer, 9, enable_nested_tensor=False)
    model, writer = nn.Sequential(nn.Embedding(5, 8), body, nn.Linear(8, 2)), Recorder()
    with gt.watch(model) as watched:
        watched.log_to(writer)
        model(torch.zeros(3, 4, dtype=torch.int64)).sum().backward()
    names = list(dict.fromkeys(key.split("/")[1] for key in writer.rows[0][1] if key.count("/") == 2))
    assert names == ["0", *(f"1.layers.{number}.self_attn" for number in (1, 4, 7)), "2"]


@pytest.mark.parametrize(("count", "names"), [(1, ["0"]), (2, ["0", "4"]), (9, ["0", "2", "4"])])
def test_as_many_modules_as_there_are(count, names):
    model, writer = layers(2), Recorder()
    with gt.watch(model) as watched:
        watched.log_to(writer, modules=count, figures=["log2_output"])
        train(model, 1)
    assert [key for key in writer.rows[0][1] if "/log2_output" in key] == [
        f"gradtrace/{name}/log2_output" for name in names
    ]


@pytest.mark.filterwarnings("ignore:Lazy modules")
def test_a_model_without_matrices_and_one_of_a_single_layer():
    class Scale(nn.Module):
        def __init__(self):
            super().__init__()
            self.scale = nn.Parameter(torch.ones(8))

        def forward(self, x):
            return x * self.scale

    for model, name in ((Scale(), "Scale"), (nn.Linear(8, 1), "Linear"), (nn.Sequential(nn.LazyLinear(3)), "0")):
        writer = Recorder()
        with gt.watch(model) as watched:
            watched.log_to(writer)
            model(torch.randn(4, 8)).sum().backward()
        assert f"gradtrace/{name}/log2_grad_weight" in writer.rows[0][1]


def test_of_a_module_called_several_times_the_first_call_counts():
    cell, writer = nn.RNNCell(2, 3), Recorder()
    with gt.watch(cell) as watched:
        watched.log_to(writer)
        watched.log_to(writer, "named", modules=["RNNCell#4", "RNNCell#9"])
        for length in (1, 5):
            h = torch.zeros(2, 3)
            for _ in range(length):
                h = cell(torch.ones(2, 2), h)
            h.sum().backward()
        last = watched.trace().modules
    figures = [row for _, row in writer.rows if "gradtrace/zeros" in row]
    assert figures[0].keys() == figures[1].keys()
    assert figures[1]["gradtrace/RNNCell/log2_grad_output"] == last[0].log2_grad_output
    named = [row for _, row in writer.rows if "named/zeros" in row]
    assert [key for key in named[0] if "RNNCell" in key] == []
    assert named[1]["named/RNNCell#4/log2_grad_output"] == last[4].log2_grad_output
    assert not any("#9" in key for key in named[1])


@pytest.mark.parametrize(("precision", "beyond"), [("float32", 150.0), ("bfloat16", 150.0), ("float64", 1075.0)])
def test_nothing_infinite_is_written_and_a_vanished_gradient_is_seen(precision, beyond):
    dtype = getattr(torch, precision)
    model, writer = layers(40).to(dtype), Recorder()
    with torch.no_grad():
        for module in model[::2]:
            module.weight.mul_(2.0 ** (-40 if dtype is torch.float64 else -9))
    with gt.watch(model) as watched:
        watched.log_to(writer, figures=["log2_grad_output", "log2_grad_weight", "gain", "dead"])
        train(model, 1)
        trace = watched.trace()
        train(model, 1, x=torch.full((3, 8), math.inf, dtype=dtype))
    first, second = (figures for _, figures in writer.rows)
    assert trace.modules[0].log2_grad_output == -math.inf
    assert first["gradtrace/0/log2_grad_output"] == first["gradtrace/0/log2_grad_weight"] == -beyond
    finite = trace.figures("log2_grad_output")
    assert (np.isfinite(finite) > -beyond).any()
    assert finite[np.isfinite(finite)].min() > -beyond
    assert first["gradtrace/zeros"] == (finite == -math.inf).sum() > 0
    assert "gradtrace/0/dead" not in first  # a linear layer has no such figure
    assert second["gradtrace/0/log2_grad_weight"] == beyond
    assert second["gradtrace/log2_cotangent"] == beyond


class Classifier(nn.Module):
    def __init__(self, bias):
        super().__init__()
        torch.manual_seed(0)
        self.embedding, self.lstm = nn.Embedding(5, 8), nn.LSTM(8, 16, batch_first=True)
        self.head = nn.Sequential(nn.Linear(16, 8), nn.ReLU(), nn.Linear(8, 2))
        with torch.no_grad():
            self.lstm.bias_ih_l0[16:32] = bias

    def forward(self, tokens):
        return self.head(self.lstm(self.embedding(tokens))[0][:, -1])


def test_what_is_lost_inside_is_logged_where_it_is_asked_for():
    """Beyond what float32 holds, and behind an optimiser's step."""
    lost = {}
    for bias in (0.0, 5.0):
        model, writer = Classifier(bias), Recorder()
        tokens, optimizer = torch.randint(0, 5, (4, 300)), torch.optim.SGD(model.parameters(), lr=0.1)
        with gt.watch(model) as watched:
            watched.log_to(writer, inside=True)
            for _ in range(2):
                model(tokens).square().mean().backward()
                inside = watched.trace().inside
                optimizer.step()
        figures = writer.rows[1][1]
        assert len([key for key in figures if "/inside/" in key]) == 3
        dh = inside["lstm"].log2_dh[0]
        lost[bias] = figures["gradtrace/lstm/inside/log2_first_over_last"]
        assert lost[bias] == pytest.approx(np.median(dh[0] - dh[-1]), abs=BITS)
        assert figures["gradtrace/lstm/inside/forget_half_life"] == inside["lstm"].forget_half_life[0]
    assert lost[0.0] < -150 < -20 < lost[5.0]
    assert writer.rows[0][1].keys() == figures.keys()


def test_a_gradient_that_is_zero_inside_is_a_finite_number():
    model, writer = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 1)), Recorder()
    with torch.no_grad():
        model[2].bias.fill_(-100.0)
    with gt.watch(model) as watched:
        watched.log_to(writer, inside=True)
        train(model, 1)
    assert writer.rows[0][1]["gradtrace/Sequential/inside/log2_first_over_last"] == -16384.0
