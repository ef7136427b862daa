"""One rule book: cards, comparisons and remedies say of a gradient what its diagnosis says."""

import math

import numpy as np
import pytest
from tolerances import tolerance

import gradtrace as gt
from gradtrace.analysis import thresholds
from gradtrace.analysis.changes import first_over_last
from gradtrace.analysis.statistics import middle, quantiles
from gradtrace.analysis.summary import summarise
from gradtrace.report import sentences

FINDING = {"vanishes": "vanishing", "explodes": "exploding"}
INITS = ("glorot_normal", "he_normal", "he_uniform", "normal", "orthogonal", "torch_default")


def random_trace(seed):
    """A trace of a random stack: any depth, width, activation and law, with or without a loss."""
    draw = np.random.default_rng(seed)
    depth, width = int(draw.integers(1, 40)), int(draw.choice([1, 2, 3, 5, 8, 16, 64]))
    sizes = [8] + [width] * (depth - 1) + [4]
    stack = gt.Stack.random(
        sizes,
        activation=str(draw.choice(["sigmoid", "tanh", "relu", "leaky_relu", "selu", "hard_tanh", "linear"])),
        init=str(draw.choice(INITS)),
        gain=float(draw.choice([0.7, 1.0, 1.0, 1.0, 2.0, 3.0])),
        bias_std=None if draw.random() < 0.7 else 0.3,
        seed=seed,
    )
    x = draw.standard_normal((int(draw.choice([1, 2, 16, 33])), 8)).astype("float32")
    options = {"per_sample": bool(draw.random() < 0.8)}
    if draw.random() < 0.5:
        options |= {"target": np.arange(len(x)) % 4, "loss": "cross_entropy"}
    return stack.trace(x, **options)


def test_a_card_says_what_the_diagnosis_says():
    said = {}
    for seed in range(400):
        trace = random_trace(seed)
        verdict, diagnosis = summarise(trace).verdict, trace.diagnose()
        found = {f.kind for f in diagnosis if f.kind in FINDING.values() and f.severity != "information"}
        said[verdict] = said.get(verdict, 0) + 1
        if verdict == "dies":
            assert "dead_units" in diagnosis.kinds, (seed, diagnosis.kinds)
        elif verdict == "arrives":
            assert not found, (seed, found)
        else:
            assert FINDING[verdict] in found, (seed, verdict, found)
            worst = next(finding for finding in diagnosis if finding.kind in found)
            assert worst.severity == diagnosis.find(FINDING[verdict]).severity
    assert min(said.get(verdict, 0) for verdict in ("arrives", "vanishes", "explodes", "dies")) >= 20, said


def test_between_six_and_ten_bits_is_worth_a_word():
    """To the diagnosis and to the card alike: training does not stumble over so little."""
    x = np.random.default_rng(0).standard_normal((64, 64)).astype("float32")
    trace = gt.Stack.random([64] * 5 + [10], "sigmoid", seed=0).trace(x)
    assert -thresholds.ALARM_BITS < first_over_last(trace) < -thresholds.LOST_BITS
    assert trace.diagnose().find("vanishing").severity == "information"
    assert summarise(trace).verdict == "arrives"
    assert "vanishes" not in sentences.left_over_text(summarise(trace))


def test_a_card_allows_for_width():
    """A narrow relu network with He's law: what it lost is chance, to the diagnosis and to the card."""
    x = np.random.default_rng(0).standard_normal((64, 6)).astype("float32")
    traces = [gt.Stack.random([6] * 31, "relu", None, "he_normal", seed=seed).trace(x) for seed in range(300)]
    chance = [
        trace
        for trace in traces
        if abs(first_over_last(trace)) > thresholds.LOST_BITS and "vanishing" not in trace.diagnose()
        and trace.dead_samples.max() == 0
    ]  # fmt: skip
    assert chance
    for trace in chance:
        assert summarise(trace).verdict == "arrives"
        assert sentences.left_over_text(summarise(trace)).endswith(
            "it arrives, and what so narrow layers change is chance."
        )


def test_first_over_last_is_of_each_sample_with_itself():
    """Samples whose gradients are bits apart at the output: of two medians the difference is no sample's own."""
    stack = gt.Stack.random([16] * 12, "tanh", seed=0)
    generator = np.random.default_rng(0)
    x = (generator.standard_normal((33, 16)) * np.exp2(generator.uniform(-3, 6, (33, 1)))).astype("float32")
    cotangent = generator.standard_normal((33, 16)) * np.exp2(generator.uniform(-40, 40, (33, 1)))
    trace = stack.trace(x, cotangent=cotangent.astype("float32"))
    own = np.median(trace.log2_delta[0] - trace.log2_delta[-1])
    assert abs(own - (np.median(trace.log2_delta[0]) - np.median(trace.log2_delta[-1]))) > 0.1
    assert first_over_last(trace) == own
    assert summarise(trace).log2_change == own
    assert trace.compare(trace).figures["first over last, bits"] == (own, own)


def test_what_float32_reads_as_zero_is_one_rule():
    """A card names the layer that `underflow` names, and relu's, whose forward signal float32 loses first."""
    x = np.random.default_rng(0).standard_normal((20, 16)).astype("float32")
    for options in ({"activation": "sigmoid"}, {"activation": "tanh", "gain": 0.2}, {"activation": "tanh"}):
        for per_sample in (True, False):
            trace = gt.Stack.random([16] * 101, output_activation=None, seed=0, **options).trace(
                x, per_sample=per_sample
            )
            assert summarise(trace).float32_zero_layer == trace.underflow("float32").first_zero
    assert trace.underflow("float32").first_zero is None
    relu = gt.Stack.random([16] * 300, "relu", seed=0).trace(x)
    assert summarise(relu).float32_zero_layer > relu.underflow("float32").first_zero


def test_remedies_measure_what_the_diagnosis_measures():
    x = np.random.default_rng(0).standard_normal((32, 8)).astype("float32")
    target = np.arange(32) % 4
    stack = gt.Stack.random([8] + [16] * 10 + [4], "sigmoid", seed=0)
    trace = stack.trace(x, target=target, loss="cross_entropy")
    tried = stack.remedies(x, target, "cross_entropy", only=["residual"], steps=1)
    assert tried.before.log2_change == np.median(trace.log2_delta[0] - trace.log2_delta[-1])
    assert tried.before.diagnosis.find("vanishing").evidence["log2_change"] == tried.before.log2_change


def test_a_watched_stack_has_the_verdict_of_its_trace():
    """Where the gradient is lost both say so, where nothing is both are silent; between the two each has its own view:
    a watch sees sums over a batch, a trace every sample."""
    torch = pytest.importorskip("torch")
    kinds = {"sigmoid": torch.nn.Sigmoid, "tanh": torch.nn.Tanh, "relu": torch.nn.ReLU}
    said = {True: 0, False: 0}
    for seed in range(60):
        draw = np.random.default_rng(seed)
        depth, width, name = (
            int(draw.integers(2, 30)),
            int(draw.choice([3, 5, 8, 16, 64])),
            str(draw.choice(list(kinds))),
        )
        gain = float(draw.choice([0.7, 1.0, 1.0, 1.4]))
        stack = gt.Stack.random([width] * (depth + 1), name, None, str(draw.choice(INITS)), gain, 0.0, seed=seed)
        x, cotangent = (draw.standard_normal((16, width)).astype("float32") for _ in range(2))
        model = torch.nn.Sequential()
        for weight in stack.weights:
            linear = torch.nn.Linear(width, width)
            linear.load_state_dict({"weight": torch.tensor(weight), "bias": torch.zeros(width)})
            model.extend([linear, kinds[name]()])
        with gt.watch(model) as watched:
            (model(torch.tensor(x)) * torch.tensor(cotangent)).sum().backward()
        trace = stack.trace(x, cotangent=cotangent)
        both = watched.trace().diagnose(), trace.diagnose()
        bits = abs(first_over_last(trace))
        if bits < thresholds.LOST_BITS and width >= 16:
            alarms = {one.kind for diagnosis in both for one in diagnosis if one.severity != "information"}
            assert alarms <= {"bias_shift"}, (seed, bits, alarms)  # samples may look alike where the gradient arrives
        elif bits >= thresholds.HOPELESS_BITS:
            assert not any(diagnosis.healthy for diagnosis in both), (seed, bits)
        else:
            continue
        said[bits >= thresholds.HOPELESS_BITS] += 1
    assert min(said.values()) >= 8, said


@pytest.mark.parametrize("cell", [gt.LSTM, gt.GRU, gt.RNN])
def test_first_over_last_of_states(cell):
    """Of what carries the state, each sample from its own end; with a loss at every step what the recurrence leaves."""
    x = np.random.default_rng(0).standard_normal((30, 3, 4)).astype("float32")
    network, lengths = cell.random(4, 8, seed=0), np.array([30, 12, 21])
    trace = network.trace(x, lengths=lengths)
    carries = trace.log2_dc[0] if cell is gt.LSTM else trace.log2_dh[0]
    own = np.median(carries[0] - carries[lengths, np.arange(3)])
    assert first_over_last(trace) == own
    assert trace.compare(trace).figures["first over last, bits"] == (own, own)
    every = network.trace(x, cotangent=np.ones((30, 3, 8), "float32"))
    left = first_over_last(every)
    if cell is gt.RNN:
        assert math.isclose(
            left,
            np.median((every.activation_gain + every.weight_gain)[0].sum(axis=0)),
            rel_tol=tolerance("recomputed", "sums"),
        )
    else:
        assert math.isclose(
            left, -30 / np.quantile(every.forget_half_life_unit[0], 0.75), rel_tol=tolerance("recomputed", "sums")
        )


def test_the_core_counts_as_saturated_what_the_rule_book_says():
    edge = math.acosh(thresholds.FLAT**-0.5)  # tanh' is FLAT here
    for z, saturated in ((edge * 0.999, 0.0), (edge * 1.001, 1.0)):
        trace = gt.Stack([np.ones((1, 1))], None, "tanh").trace(np.full((1, 1), z))
        assert trace.saturated[0] == saturated


def test_quantiles_are_numpys_where_numpy_has_any():
    values = np.random.default_rng(0).standard_normal((5, 4, 30))
    shares = (0.0, 0.05, 0.5, 0.93, 1.0)
    np.testing.assert_allclose(
        quantiles(values, shares),
        np.quantile(values, shares, axis=-1),
        rtol=0,
        atol=tolerance("recomputed", "a few roundings"),
    )
    assert np.array_equal(middle(values), np.median(values, axis=-1))
    values[1, 2, :7] = np.nan
    np.testing.assert_allclose(
        quantiles(values, shares),
        np.nanquantile(values, shares, axis=-1),
        rtol=0,
        atol=tolerance("recomputed", "a few roundings"),
    )


def test_quantiles_between_a_zero_and_a_number():
    """As the core takes them, over samples that are never held at once."""
    rows = np.array([[-np.inf, -3.0], [-np.inf, np.nan], [np.nan, np.nan], [-np.inf, np.inf]])
    assert np.array_equal(quantiles(rows, (0.5,))[0], [-np.inf, -np.inf, np.nan, -np.inf], equal_nan=True)
    ours = quantiles(rows, (0.05, 0.5, 0.95)).T
    assert np.array_equal(ours, gt._core.quantiles([rows], (0.05, 0.5, 0.95))[0], equal_nan=True)
