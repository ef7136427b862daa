"""What a finding says: in sentences, without a nan, and so that it can be done."""

import ast
import itertools
import re

import numpy as np
import pytest

import gradtrace as gt
from gradtrace.activations import ACTIVATIONS
from gradtrace.analysis.advice import ADVICE, torch_name
from gradtrace.analysis.diagnosis import KINDS, MEANS
from gradtrace.analysis.evidence import told
from gradtrace.remedies.judgement import RECURRENT_REMEDIES, STACK_REMEDIES

COLUMNS = 80


def rows(scale=1.0, shift=0.0, samples=24, width=8):
    return (scale * np.random.default_rng(0).standard_normal((samples, width)) + shift).astype("float32")


def stacks():
    """Stacks that people meet, and stacks that nobody should; with inputs likewise."""
    inputs = {"plain": rows(), "large": rows(1e4), "offset": rows(1.0, 100), "zero": rows(0.0), "one": rows(samples=1)}
    inputs["equal"] = np.repeat(rows(samples=1), 9, axis=0)
    for activation, gain in itertools.product(ACTIVATIONS, (0.0, 1e-20, 0.5, 1.0, 4.0, 1e3, 1e25)):
        depth = 1 if gain == 0.5 else 24
        yield gt.Stack.random([8] * depth + [3], activation, gain=gain, seed=1), inputs["plain"], {}
    for name, x in inputs.items():
        labels = np.arange(len(x)) % 3
        for activation, options in (("sigmoid", {}), ("relu", {"residual": True}), ("tanh", {"layer_norm": True})):
            stack = gt.Stack.random([8] * 12 + [3], activation, seed=2, **options)
            yield stack, x, {"target": labels, "loss": "cross_entropy"}
            yield stack, x, {"per_sample": name != "plain"}
    dead = gt.Stack.random([8] * 6 + [3], "relu", seed=3)
    yield dead.replaced(biases=[np.full(n, -50, "float32") for n in dead.sizes[1:]]), inputs["plain"], {}
    yield dead.replaced(weights=[-np.abs(w) for w in dead.weights]), np.abs(inputs["plain"]), {}
    yield dead, inputs["plain"], {"cotangent": np.zeros((24, 3), "float32")}
    yield dead, inputs["plain"], {"target": dead.forward(inputs["plain"]), "loss": "mse"}
    yield gt.Stack.random([8, 1, 1, 1, 3], "relu", seed=4), inputs["plain"], {}
    yield gt.Stack.random([64] * 24 + [3], "tanh", init="normal", gain=4.0, seed=5), rows(width=64), {}  # chaotic


def recurrent():
    x = np.random.default_rng(0).standard_normal((50, 6, 4)).astype("float32")
    readout = gt.Stack.random([8, 3], activation="linear", seed=0)
    for scale in (0.0, 1.0, 1e3):
        for bias in (-40.0, -2.0, 1.0, 40.0):
            yield gt.LSTM.random(4, 8, forget_bias=bias, seed=0), scale * x, {}
        yield gt.LSTM.random(4, 8, num_layers=2, bidirectional=True, forget_bias=-3.0, seed=0), scale * x, {}
        for gain in (0.0, 1e-3, 0.5, 1.0, 1.5, 3.0, 1e4):
            yield gt.RNN.random(4, 8, gain=gain, seed=0), scale * x, {}
            yield gt.RNN.random(4, 8, activation="relu", gain=gain, seed=0), scale * x, {}
            yield gt.GRU.random(4, 8, gain=gain, seed=0), scale * x, {}
            labels = np.zeros((50, 6), "int64")
            how = {"readout": readout, "target": labels, "loss": "cross_entropy", "at": "all"}
            yield gt.LSTM.random(4, 8, forget_bias=-2.0, gain=gain, seed=0), scale * x, how
    many = np.random.default_rng(1).standard_normal((50, 64, 4)).astype("float32")
    for at, step in itertools.product(("last", "all"), (0, 49)):  # the answer lies far back, and at hand
        labels = np.argmax(many[step, :, :3] if at == "last" else np.roll(many[:, :, :3], -step, axis=0), axis=-1)
        how = {"readout": readout, "target": labels, "loss": "cross_entropy", "at": at}
        yield gt.GRU.random(4, 8, seed=0), many, how
        yield gt.RNN.random(4, 8, gain=0.5, seed=0), many, how
    yield gt.LSTM.random(4, 8, seed=0), x[:1], {}
    yield gt.RNN.random(4, 64, gain=2.0, seed=0), 1e-3 * x, {}


def check(diagnosis):
    """Every finding is a sentence, says what to do first, and gives lines of Python for it."""
    for finding in diagnosis:
        text = str(finding)
        assert max(map(len, text.splitlines())) <= COLUMNS, text
        prose = " ".join((finding.cause, finding.told, finding.first))
        assert not re.search(r"\b(nan|by undefined|is undefined)\b", prose.lower()), text
        assert not finding.cause[0].islower(), text
        assert finding.cause.endswith("."), text
        assert not re.search(r"_|log2|=", finding.told), text
        assert bool(told(finding.evidence)) == bool(finding.evidence), text
        assert bool(finding.means) == (finding.severity != "information" and finding.kind in MEANS), text
        assert not re.search(r"(^|\. )[a-z]", finding.told), text
        assert finding.first, text
        ast.parse(finding.code)
        assert "{" not in finding.code
        assert f"First: {finding.first}." in " ".join(text.split())
        assert all(line in text for line in finding.code.splitlines())
    return set(diagnosis.kinds)


@pytest.mark.filterwarnings("ignore:.*overflow.*:RuntimeWarning")
def test_every_finding_of_a_stack_can_be_read_and_done():
    seen = set()
    for stack, x, how in stacks():
        seen |= check(stack.trace(x, **how).diagnose())
    assert seen >= {"data", "vanishing", "exploding", "saturation", "dead_units", "bias_shift", "forward_underflow"}
    assert seen >= {"forward_overflow", "sensitive", "subnormal"}


def test_every_finding_of_a_recurrent_network_can_be_read_and_done():
    seen = set()
    for network, x, how in recurrent():
        seen |= check(network.trace(x, **how).diagnose())
    assert seen >= {"data", "vanishing", "exploding", "saturation", "forgetting", "sensitive"}


def test_every_finding_of_a_watched_model_can_be_read_and_done():
    torch = pytest.importorskip("torch")
    seen = set()
    for make, scale, bias in itertools.product((torch.nn.Sigmoid, torch.nn.ReLU), (1e-3, 1.0, 1e6, 1e20), (0.0, -1e3)):
        torch.manual_seed(0)
        layers = [part for _ in range(20) for part in (torch.nn.Linear(8, 8), make())]
        model = torch.nn.Sequential(*layers, torch.nn.Linear(8, 3))
        with torch.no_grad():
            for linear in layers[::2]:
                linear.weight *= scale
                linear.bias += bias
        with gt.watch(model) as watched:
            model(torch.randn(16, 8)).square().mean().backward()
        trace = watched.trace()
        seen |= check(trace.diagnose())
        for inside in getattr(trace, "inside", {}).values():
            seen |= check(inside.diagnose())
    assert seen >= {"vanishing", "dead_units", "saturation"}


def test_evidence_without_a_sentence_of_its_own_is_words():
    assert told({"log2_grad_weight_ratio": -3.0}) == "Grad weight ratio: 0.125."
    assert told({"some_bits": 2.0, "other_share": 0.5, "plain": 1e7}) == "Some: 4. Other share: 50%. Plain: 1e+07."
    assert told({"saturated": 0.52, "input_rms": 30.0}, "52% of them, by inputs of 3.") == (
        "The root mean square of the inputs is 30."
    )
    assert told({}) == ""


def test_every_kind_means_something():
    assert not set(MEANS) - set(KINDS)
    assert set(KINDS) - set(MEANS) <= {"data", "forgetting", "output_range"}  # whose causes say it themselves


def test_every_remedy_has_advice():
    assert not (set(STACK_REMEDIES) | set(RECURRENT_REMEDIES)) - set(ADVICE)


def test_states_that_grow_are_the_recurrences_doing_and_not_the_readouts():
    x = np.random.default_rng(0).standard_normal((80, 6, 4)).astype("float32")
    rnn = gt.RNN.random(4, 8, activation="relu", gain=30.0, seed=0)
    readout = gt.Stack.random([8, 3], activation="linear", seed=0)
    labels = np.zeros(6, "int64")
    finding = rnn.trace(x, readout=readout, target=labels, loss="cross_entropy").diagnose().find("forward_overflow")
    assert finding.part == ""
    assert "weight_hh" in finding.cause
    assert finding.remedies[0] == "orthogonal_recurrent"


# The lines, run ----------------------------------------------------------------------------------------------------


def torch_stack(stack):
    """Make the module of a stack, whose activation is a module of PyTorch's."""
    torch = pytest.importorskip("torch")
    parts = []
    for weight, bias, activation in zip(stack.weights, stack.biases, stack.activation, strict=True):
        linear = torch.nn.Linear(weight.shape[1], weight.shape[0])
        with torch.no_grad():
            linear.weight.copy_(torch.tensor(weight))
            linear.bias.copy_(torch.zeros(len(weight)) if bias is None else torch.tensor(bias))
        parts += [linear] + ([eval(torch_name(activation), {"nn": torch.nn})] if activation != "linear" else [])
    return torch.nn.Sequential(*parts)


def done(finding, **names):
    """Run a finding's lines on what a user has by these names."""
    torch = pytest.importorskip("torch")
    space = {"torch": torch, "nn": torch.nn, **names}
    exec(finding.code, space)
    return space


@pytest.mark.parametrize(
    ("kind", "options", "scale", "shift"),
    [
        ("exploding", {"activation": "tanh", "init": "normal", "gain": 4.0}, 1.0, 0.0),
        ("vanishing", {"activation": "relu", "init": "normal", "gain": 0.6}, 1.0, 0.0),
        ("vanishing", {"activation": "tanh", "init": "normal", "gain": 0.4}, 1.0, 0.0),
        ("saturation", {"activation": "tanh", "init": "normal", "gain": 100.0}, 1.0, 0.0),
        ("saturation", {"activation": "sigmoid", "init": "normal", "gain": 1.0}, 1e3, 0.0),
    ],
)
def test_the_lines_for_a_stack_do_away_with_the_finding(kind, options, scale, shift):
    torch = pytest.importorskip("torch")
    torch.manual_seed(0)
    stack = gt.Stack.random([32] * (4 if scale > 1 else 20) + [10], seed=0, **options)
    x = rows(scale, shift, 64, 32)
    finding = stack.trace(x).diagnose().find(kind)
    assert finding is not None
    space = done(finding, model=torch_stack(stack), x=torch.tensor(x))
    after = gt.from_torch(space["model"]).trace(space["x"].numpy()).diagnose()
    assert kind not in after.kinds, (finding.code, str(after))


@pytest.mark.parametrize(
    ("cell", "options", "kind"),
    [
        ("LSTM", {"forget_bias": -3.0}, "forgetting"),
        ("RNN", {"gain": 0.5}, "vanishing"),
        ("RNN", {"gain": 2.0, "activation": "relu"}, "exploding"),
    ],
)
def test_the_lines_for_a_recurrent_network_do_away_with_the_finding(cell, options, kind):
    torch = pytest.importorskip("torch")
    torch.manual_seed(0)
    network = getattr(gt, cell).random(4, 32, seed=0, **options)
    x = np.random.default_rng(0).standard_normal((30, 8, 4)).astype("float32")
    finding = network.trace(x).diagnose().find(kind)
    assert finding is not None
    extra = {"nonlinearity": options["activation"]} if "activation" in options else {}
    module = getattr(torch.nn, cell)(4, 32, **extra)
    with torch.no_grad():
        for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh"):
            array = getattr(network, name)[0]
            parameter = getattr(module, f"{name}_l0")
            parameter.copy_(torch.zeros_like(parameter) if array is None else torch.tensor(array))
    done(finding, **{cell.lower(): module})
    after = gt.from_torch(module).trace(x).diagnose()
    assert kind not in after.kinds, (finding.code, str(after))


def broken(name):
    """Data that can be learned, and a network that hardly learns them."""
    rng = np.random.default_rng(0)
    x = rng.standard_normal((200, 16)).astype("float32")
    labels = (x[:, 0] * x[:, 1] > 0) + 2 * (x[:, 2] > 0).astype("int64")
    if name == "offset":
        x = x * np.float32(30) + np.float32(500)
    deep = name == "sigmoid"
    law = ("sigmoid", "torch_default") if deep else ("relu", "he_normal")
    stack = gt.Stack.random([16, *[32] * (8 if deep else 4), 4], law[0], init=law[1], seed=0)
    if name == "dead":
        stack = stack.replaced(biases=[np.full(n, -3, "float32") for n in stack.sizes[1:]])
    return stack, x, labels


@pytest.mark.parametrize("name", ["sigmoid", "dead", "offset"])
def test_who_does_what_the_first_finding_says_trains_better(name):
    torch = pytest.importorskip("torch")
    stack, x, labels = broken(name)

    def trained(model, inputs):
        optimiser, target = torch.optim.Adam(model.parameters(), 1e-3), torch.tensor(labels)
        for _ in range(150):
            optimiser.zero_grad()
            loss = torch.nn.functional.cross_entropy(model(inputs), target)
            loss.backward()
            optimiser.step()
        return loss.item()

    finding = stack.trace(x, target=labels, loss="cross_entropy").diagnose()[0]
    assert finding.severity != "information", finding
    torch.manual_seed(0)
    before = trained(torch_stack(stack), torch.tensor(x))
    other = {"relu_he": "relu", "tanh_orthogonal": "tanh", "selu_lecun": "selu"}.get(finding.remedies[0])
    changed = stack if other is None else stack.replaced(activation=[*[other] * (stack.depth - 1), "linear"])
    space = done(finding, model=torch_stack(changed), x=torch.tensor(x))
    assert trained(space["model"], space["x"]) < 0.7 * before, str(finding)
