"""Trials are what a user would do: each remedy where it is needed, within a budget, and honest where they are blind."""

import math

import numpy as np
import pytest
from tolerances import tolerance

import gradtrace as gt
from gradtrace.remedies.contestants import OPTIMISERS
from gradtrace.remedies.tasks import Task, guess_losses, sample_losses
from gradtrace.remedies.training import Run

RNG = np.random.default_rng
X = RNG(0).standard_normal((160, 8)).astype("float32")
CLASSES = X[:, :3].argmax(axis=1)
VALUES = np.tanh(X[:, :2]).astype("float32")


def plain(outputs=3, end="linear", depth=2):
    return gt.Stack.random([8, *[24] * depth, outputs], "tanh", end, seed=1)


def one_line(told):
    return " ".join(str(told).split())


# Each kind where it is needed ----------------------------------------------------------------------------------------


def test_inputs_are_standardised_before_training():
    far = X + np.float32(100)
    tried = plain().remedies(far, CLASSES, "cross_entropy", only=["standardised_inputs"], steps=80)
    remedy = tried.find("standardised_inputs")
    assert remedy.helps
    assert remedy.network == plain()
    assert remedy.held_out < 0.4 < 0.8 < tried.before.held_out
    assert "standardised_inputs" not in {one.name for one in plain().remedies(X, CLASSES, "cross_entropy", steps=1)}


def test_an_output_activation_that_the_loss_has_no_use_for_is_dropped():
    closed = plain(end="relu")
    shut = closed.replaced(biases=[None, None, np.full(3, -3, "float32")])
    tried = shut.remedies(X, CLASSES, "cross_entropy", only=["linear_output"], steps=80)
    assert tried.find("linear_output").helps
    assert tried.best.network.activation[-1] == "linear"
    names = ["linear_output"]
    inside = (VALUES + 1) / 2
    assert not plain(2, "sigmoid").remedies(X, inside, "mse", only=names, steps=1).tried
    assert plain(2, "sigmoid").remedies(X, VALUES, "mse", only=names, steps=1).tried
    assert not plain(2).remedies(X, VALUES, "mse", only=names, steps=1).tried


def test_targets_are_scaled_and_their_losses_told_in_the_users_unit():
    far = 1000 + 100 * VALUES
    tried = plain(2).remedies(X, far, "mse", only=["scaled_targets"], steps=80)
    remedy = tried.find("scaled_targets")
    assert remedy.helps
    variance = far.astype("float64").var(axis=0).mean()
    assert remedy.held_out < 0.3 * variance < tried.before.held_out
    assert 0.5 * variance < remedy.training.start < 3 * variance
    assert not plain(2).remedies(X, VALUES, "mse", only=["scaled_targets"], steps=1).tried


def test_a_rate_below_all_that_were_tried():
    linear = gt.Stack.random([8, 2], "linear", None, gain=1e-3, seed=0)
    tried = linear.remedies(X * np.float32(3e3), VALUES, "mse", steps=60)
    assert tried.before.trainings["sgd"].diverged
    slower = tried.find("smaller_rate")
    assert slower.helps
    assert slower.trainings["sgd"].rate < min(OPTIMISERS["sgd"])
    assert "as it is diverges at every rate tried" in slower.verdict
    assert "smaller_rate" not in {one.name for one in plain().remedies(X, CLASSES, "cross_entropy", steps=10)}


def test_a_lag_that_these_steps_do_not_bridge_is_not_judged():
    """The first of 60 inputs decides; in ten steps of training nobody finds that out."""
    x = RNG(1).standard_normal((60, 64, 1)).astype("float32")
    lstm, readout = gt.LSTM.random(1, 6, seed=0), gt.Stack.random([6, 2], "linear", None, seed=0)
    target = (x[0, :, 0] > 0).astype("int64")
    tried = lstm.remedies(x, readout, target, "cross_entropy", only=["truncation", "smaller_recurrent"], steps=10)
    for remedy in tried:
        assert remedy.helps is None
        assert remedy.verdict.startswith("cannot tell in 10 steps")
    assert tried.best is None


def test_a_window_is_enough_where_the_answer_is_near_and_is_no_lower_loss():
    x = RNG(2).standard_normal((20, 128, 2)).astype("float32")
    rnn, readout = gt.RNN.random(2, 8, seed=0), gt.Stack.random([8, 1], "linear", None, seed=0)
    rnn = rnn.replaced(weight_hh=[rnn.weight_hh[0] * np.float32(0.2)])
    target = np.ascontiguousarray(x[-1, :, :1])
    remedy = rnn.remedies(x, readout, target, "mse", only=["truncation"], steps=120)[0]
    assert 2 * remedy.window <= 20
    assert remedy.helps is False
    assert f"{remedy.window} of 20 steps are enough" in remedy.verdict


def test_answers_at_every_step():
    x = RNG(3).standard_normal((12, 48, 2)).astype("float32")
    gru, readout = gt.GRU.random(2, 6, seed=0), gt.Stack.random([6, 2], "linear", None, seed=0)
    tried = gru.remedies(x, readout, (x[:, :, 0] > 0).astype("int64"), "cross_entropy", at="all", steps=40)
    assert "truncation" not in {remedy.name for remedy in tried}
    assert tried.before.held_out < 0.5
    assert tried.before.training.learned


# Behind the ends of sequences ----------------------------------------------------------------------------------------


STEPS = RNG(5).standard_normal((10, 40, 2)).astype("float32")
LENGTHS = RNG(6).integers(3, 11, 40)
ENDED = np.arange(10)[:, None] >= LENGTHS
AT_EVERY_STEP = {
    "cross_entropy": (STEPS[:, :, 0] > 0).astype("int64"),
    "mse": (50 + 20 * STEPS).astype("float32"),
}


def behind(values, padding):
    """The same values, other padding."""
    padded = values.copy()
    padded[ENDED] = padding
    return padded


@pytest.mark.parametrize(("loss", "paddings"), [("cross_entropy", (0, 5, -100)), ("mse", (0, 5, -100, math.nan, 1e38))])
def test_padding_changes_no_figure_of_remedies(loss, paddings):
    gru, readout = gt.GRU.random(2, 5, seed=0), gt.Stack.random([5, 2], "linear", None, seed=0)
    names = ["scaled_targets", "standardised_inputs", "gradient_clipping"]

    def table(x, padding, names=names):
        target = behind(AT_EVERY_STEP[loss], padding)
        return gru.remedies(x, readout, target, loss, at="all", lengths=LENGTHS, only=names, steps=10).to_dict()

    plain_table = table(behind(STEPS, 0), 0)
    tried = {one["name"] for one in plain_table["tried"]}
    assert tried == ({"scaled_targets", "gradient_clipping"} if loss == "mse" else {"gradient_clipping"})
    for padding in paddings[1:]:
        assert table(behind(STEPS, 7), padding) == plain_table
    far = STEPS + np.float32(20)
    tables = [table(behind(far, padding), 0, ["standardised_inputs"]) for padding in (0, 1e38)]
    assert tables[0] == tables[1]
    assert len(tables[0]["tried"]) == 1


def test_guesses_and_scales_are_those_of_the_steps_that_count():
    valid = ~ENDED
    labels, values = AT_EVERY_STEP["cross_entropy"], AT_EVERY_STEP["mse"]
    readout = gt.Stack.random([5, 2], "linear", None, seed=0)
    own = {"readout": readout, "lengths": LENGTHS, "every": True}
    task = Task(behind(STEPS, 9), behind(labels, -100), "cross_entropy", **own)
    counts = np.bincount(labels[valid], minlength=2) + 1.0
    each = -np.log(counts / counts.sum())[labels]
    wanted = [each[: LENGTHS[k], k].mean() for k in range(40)]
    np.testing.assert_allclose(guess_losses(task, task), wanted, rtol=tolerance("recomputed", "sums"))
    task = Task(behind(STEPS, 9), behind(values, math.nan), "mse", **own)
    wide = values.astype("float64")
    mean = wide[valid].mean(axis=0)
    wanted = [((wide[: LENGTHS[k], k] - mean) ** 2).mean() for k in range(40)]
    np.testing.assert_allclose(guess_losses(task, task), wanted, rtol=tolerance("recomputed", "sums"))
    scaled = task.scaled(task)
    assert math.isclose(scaled.unit, (wide[valid] - mean).std(), rel_tol=tolerance("recomputed", "sums"))
    assert np.isfinite(scaled.target).all()
    given = task.standardised(task).x[valid]
    np.testing.assert_allclose(given.mean(axis=0), 0, atol=tolerance("losses", "relative", "float32"))
    np.testing.assert_allclose(given.std(axis=0), 1, rtol=tolerance("losses", "relative", "float32"))


def test_the_lines_for_targets_do_what_the_trial_does():
    torch = pytest.importorskip("torch")
    far = np.float32([1000, -300]) + np.float32([100, 3]) * VALUES
    task = Task(X, far, "mse")
    lines = gt.remedy("scaled_targets").code
    scope = {"target": torch.tensor(far, dtype=torch.float64)}
    exec(lines, scope)
    shrunk = math.sqrt(1 - 1 / far.size)  # PyTorch divides by one less
    wanted = task.scaled(task).target
    np.testing.assert_allclose(scope["target"] / shrunk, wanted, atol=tolerance("losses", "relative", "float32"))
    gru, readout = gt.GRU.random(2, 5, seed=0), gt.Stack.random([5, 2], "linear", None, seed=0)
    for at, target, axes in (("all", AT_EVERY_STEP["mse"], "(0, 1)"), ("last", AT_EVERY_STEP["mse"][-1], "0")):
        tried = gru.remedies(STEPS, readout, target, "mse", at=at, only=["scaled_targets"], steps=1)
        assert f"target.mean({axes})" in tried[0].code


def test_one_step_is_no_steps():
    tried = plain().remedies(X, CLASSES, "cross_entropy", only=["gradient_clipping"], steps=1)
    assert "after 1 step." in one_line(tried)
    blind = gt.Stack.random([8, *[16] * 12, 3], "sigmoid", seed=0)
    tried = blind.remedies(X, CLASSES, "cross_entropy", only=["zero_bias", "gradient_clipping"], steps=1)
    assert tried[0].verdict.startswith("cannot tell in 1 step, nothing")


# What is not known ---------------------------------------------------------------------------------------------------


def test_labels_without_a_reason_are_learned_by_heart_and_no_help():
    deep = gt.Stack.random([8, *[48] * 8, 3], "sigmoid", seed=0)
    tried = deep.remedies(
        X, RNG(4).integers(0, 3, 160), "cross_entropy", only=["relu_he", "tanh_orthogonal"], steps=200
    )
    learned = min(remedy.training.end for remedy in tried)
    assert learned < tried.before.training.end
    assert [remedy.helps for remedy in tried] == [None, None]
    assert all("vanishing" in remedy.verdict for remedy in tried), "what it resolves is said apart"


def test_few_samples_are_not_split():
    tried = plain().remedies(X[:8], CLASSES[:8], "cross_entropy", only=["layer_norm"], steps=10)
    assert tried[0].helps is None
    assert tried[0].verdict.startswith("cannot tell, too few samples")
    assert "8 samples are too few to hold some out" in str(tried)
    assert math.isnan(tried.before.held_out)
    assert tried.before.training.end > 0


def test_what_the_same_weights_would_do_anyway_does_not_help():
    tried = plain().remedies(X, CLASSES, "cross_entropy", only=["gradient_clipping"], steps=60)
    assert tried[0].helps is False
    assert tried[0].verdict.startswith("does not help")


# Orders --------------------------------------------------------------------------------------------------------------


def test_orders_follow_the_losses():
    tried = gt.Stack.random([8, *[16] * 6, 3], "sigmoid", seed=0).remedies(X, CLASSES, "cross_entropy", steps=30)
    for optimiser in ("sgd", "adam"):
        order = tried.ranked(optimiser)
        assert {remedy.name for remedy in order} == {remedy.name for remedy in tried}
        places = [tried.places(optimiser)[remedy.name] for remedy in order]
        assert places == sorted(places)
        assert sum(places) == len(order) * (len(order) + 1) / 2
        best, worst = (order[k].trainings[optimiser].score for k in (0, -1))
        assert best < worst
    both = tried.places()
    assert both == {name: (tried.places("sgd")[name] + place) / 2 for name, place in tried.places("adam").items()}
    assert [both[remedy.name] for remedy in tried.ranked()] == sorted(both.values())
    with pytest.raises(ValueError, match="optimiser: expected one of sgd, adam, got 'lion'"):
        tried.ranked("lion")


def test_adam_takes_the_steps_of_pytorch():
    torch = pytest.importorskip("torch")
    stack = gt.Stack.random([8, 6, 2], "tanh", "linear", seed=0, dtype="float64")
    x, y = X.astype("float64"), VALUES.astype("float64")
    linear = [torch.nn.Linear(*sizes, dtype=torch.float64) for sizes in ((8, 6), (6, 2))]
    for layer, weight in zip(linear, stack.weights, strict=True):
        layer.load_state_dict({"weight": torch.tensor(weight), "bias": torch.zeros(len(weight), dtype=torch.float64)})
    model = torch.nn.Sequential(linear[0], torch.nn.Tanh(), linear[1])
    optimiser = torch.optim.Adam(model.parameters(), 0.01)
    for _ in range(20):
        optimiser.zero_grad()
        torch.nn.functional.mse_loss(model(torch.tensor(x)), torch.tensor(y)).backward()
        optimiser.step()
    end = torch.nn.functional.mse_loss(model(torch.tensor(x)), torch.tensor(y)).item()
    run = Run(stack, Task(x, y, "mse"), None, "adam", 0.01).advance((20,))
    assert math.isclose(run.end, end, rel_tol=tolerance("recomputed", "sums"))


def test_a_run_that_is_gone_on_with_is_the_run_at_once():
    task = Task(X, CLASSES, "cross_entropy")
    for optimiser in ("sgd", "adam"):
        parts = Run(plain(), task, task, optimiser, 0.01)
        for at in ((5,), (5, 12), (20,)):
            parts.advance(at)
        whole = Run(plain(), task, task, optimiser, 0.01).advance((5, 12, 20))
        assert [(a.steps, a.trained, a.held.tolist()) for a in parts.marks] == [
            (b.steps, b.trained, b.held.tolist()) for b in whole.marks
        ]


def test_losses_of_samples_are_those_whose_mean_a_trace_tells():
    for stack, target, loss in ((plain(), CLASSES, "cross_entropy"), (plain(2), VALUES, "mse")):
        losses = sample_losses(stack, Task(X, target, loss), None)
        mean = stack.trace(X, target=target, loss=loss).loss
        assert math.isclose(losses.mean(), mean, rel_tol=tolerance("losses", "relative", "float32"))
    shares = np.bincount(CLASSES) / len(CLASSES)
    task = Task(X, CLASSES, "cross_entropy")
    assert math.isclose(
        guess_losses(task, task).mean(),
        -(shares * np.log(shares)).sum(),
        rel_tol=tolerance("remedies", "smoothed guess"),
    )
    task = Task(X, VALUES, "mse")
    variance = VALUES.astype("float64").var(axis=0).mean()
    assert math.isclose(guess_losses(task, task).mean(), variance, rel_tol=tolerance("losses", "relative", "float32"))


# Angles --------------------------------------------------------------------------------------------------------------


def test_distinct_measures_angles():
    def apart(rows):
        units = rows / np.linalg.norm(rows, axis=1, keepdims=True)
        return 1 - np.median((units @ units.T)[np.triu_indices(len(rows), 1)])

    x, names = X[:40], ["gradient_clipping"]
    stack = gt.Stack.random([8, 30, 3], "relu", "linear", seed=2)
    hidden = np.maximum(x.astype("float64") @ stack.weights[0].T.astype("float64"), 0)
    got = stack.remedies(x, CLASSES[:40], "cross_entropy", only=names, steps=1).before.distinct
    assert math.isclose(got, apart(hidden) / apart(x.astype("float64")), rel_tol=tolerance("recomputed", "sums"))
    ray = gt.Stack(
        [np.abs(RNG(0).standard_normal((9, 1))) @ np.ones((1, 8)), np.ones((3, 9))], None, ["relu", "linear"]
    )
    positive = np.abs(x).astype("float64")
    assert ray.remedies(positive, CLASSES[:40], "cross_entropy", only=names, steps=1).before.distinct < tolerance(
        "remedies", "angle on a ray"
    )
    turned = gt.Stack([np.linalg.qr(RNG(0).standard_normal((8, 8)))[0], np.ones((3, 8))], None, "linear")
    whole = turned.remedies(x.astype("float64"), CLASSES[:40], "cross_entropy", only=names, steps=1).before.distinct
    assert math.isclose(whole, 1, rel_tol=tolerance("recomputed", "sums"))


# The budget ----------------------------------------------------------------------------------------------------------


def test_a_budget_is_kept_and_what_it_did_not_reach_is_said():
    deep = gt.Stack.random([8, *[48] * 24, 3], "sigmoid", seed=0)
    tried = deep.remedies(X, CLASSES, "cross_entropy", steps=3000, seconds=1.5)
    assert 1.5 <= tried.seconds < 4  # of a machine that has other work, too
    assert tried.steps < 3000
    known = f"stopped after {tried.steps} of 3000 steps" if tried.steps else "no round of the trials was finished"
    assert f"{known}; more seconds reach further" in one_line(tried)
    none = deep.remedies(X, CLASSES, "cross_entropy", seconds=1e-6)
    assert not none.tried
    assert "not reached" in str(none)
    assert none.steps == 0
    assert "160 samples; no round of the trials was finished." in one_line(none)
    assert "after" not in one_line(none)
    assert math.isnan(none.before.training.end)
    assert none.to_dict()["before"]["training"]["end"] is None


def test_progress_is_told():
    told = []
    plain().remedies(X, CLASSES, "cross_entropy", only=["layer_norm"], steps=300, progress=told.append)
    assert told
    assert all(0 <= one.done <= 1 and one.remaining >= 0 for one in told)
    assert [one.elapsed for one in told] == sorted(one.elapsed for one in told)
    assert [one.done for one in told] == sorted(one.done for one in told)
    assert told[0].trial.startswith("as it is, sgd, rate")


def test_interrupted_trials_give_the_best_so_far():
    def tired(progress):
        if progress.trial.startswith("layer_norm"):
            raise KeyboardInterrupt

    tried = plain(depth=8).remedies(
        X, CLASSES, "cross_entropy", only=["relu_he", "layer_norm"], steps=300, progress=tired
    )
    assert tried.stopped
    assert "stopped by Ctrl-C" in str(tried)
    assert "stopped after 30 of 300 steps; more seconds reach further" in one_line(tried)
    assert [remedy.name for remedy in tried] == ["relu_he"]

    def at_once(progress):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        gt.LSTM.random(2, 4).remedies(np.zeros((5, 20, 2), "float32"), progress=at_once, only=[])


@pytest.mark.parametrize(
    ("arguments", "kind", "words"),
    [
        ({"seconds": 0}, ValueError, "seconds: expected more than 0, got 0"),
        ({"seconds": math.nan}, ValueError, "seconds: expected more than 0, got nan"),
        ({"seconds": "60"}, TypeError, "seconds: expected a number, got str"),
        ({"seconds": True}, TypeError, "seconds: expected a number, got bool"),
        ({"progress": 3}, TypeError, "progress: expected a function, got int"),
    ],
)
def test_arguments_of_the_budget(arguments, kind, words):
    for call in (
        lambda: plain().remedies(X, steps=1, **arguments),
        lambda: gt.GRU.random(2, 3).remedies(np.zeros((3, 20, 2), "float32"), steps=1, **arguments),
    ):
        with pytest.raises(kind) as error:
            call()
        assert str(error.value) == words
