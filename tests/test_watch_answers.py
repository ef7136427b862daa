"""Answers told from the gradient at the outputs, and what a loss that stays at a guess's makes of a short memory."""

import math

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from tolerances import tolerance  # noqa: E402
from torch import nn  # noqa: E402
from torch.nn import functional as F  # noqa: E402, N812

import gradtrace as gt  # noqa: E402
from gradtrace.watch.answers import Answers, Told, told  # noqa: E402


def seen(outputs, loss):
    """The loss, and what was told of it: the loss, and how often each answer was given."""
    outputs.requires_grad_()
    value = loss(outputs)
    (gradient,) = torch.autograd.grad(value, outputs)
    got = told(gradient, outputs.detach())
    return value.item(), None if got is None else (got.loss.item(), got.counts.tolist())


LABELS = torch.tensor([0, 0, 0, 2, 1, 0, 2, 0])
LOGITS = torch.as_tensor(np.random.default_rng(0).normal(size=(8, 3)) * 3, dtype=torch.float32)


def ignoring(z):
    labels = LABELS.clone()
    labels[0] = -100
    return F.cross_entropy(z, labels)


CASES = {
    "cross entropy": (lambda: LOGITS.clone(), lambda z: F.cross_entropy(z, LABELS), [[5, 1, 2]]),
    "of tokens": (
        lambda: LOGITS.reshape(2, 4, 3).clone(),
        lambda z: F.cross_entropy(z.reshape(-1, 3), LABELS),
        [[5, 1, 2]],
    ),
    "rows that do not count": (lambda: LOGITS.clone(), ignoring, [[4, 1, 2]]),
    "of log_softmax": (
        lambda: LOGITS.log_softmax(1),
        lambda z: F.nll_loss(z, LABELS),
        [[5, 1, 2]],
    ),
    "binary": (
        lambda: LOGITS[:, :1].clone(),
        lambda z: F.binary_cross_entropy_with_logits(z, (LABELS[:, None] == 0).float()),
        [[3, 5]],
    ),
    "binary, flat": (
        lambda: LOGITS[:, 0].clone(),
        lambda z: F.binary_cross_entropy_with_logits(z, (LABELS == 0).float()),
        [[3, 5]],
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_loss_and_answers_are_told(name):
    outputs, loss, counts = CASES[name]
    value, got = seen(outputs(), loss)
    assert got[0] == pytest.approx(value, rel=tolerance("torch", "answers"))
    assert got[1] == counts


@pytest.mark.parametrize(
    "loss",
    [
        lambda z: 3 * F.cross_entropy(z, LABELS),
        lambda z: F.mse_loss(z, torch.ones_like(z)),
        lambda z: z.sum(),
        lambda z: z.square().sum(),
        lambda z: F.cross_entropy(z, LABELS, label_smoothing=0.2),
        lambda z: F.multi_margin_loss(z, LABELS),
    ],
)
def test_other_losses_are_not_taken_for_it(loss):
    assert seen(LOGITS.clone(), loss)[1] is None


def remembered(losses, classes, batch, seed=0):
    """Steps of so many samples, of classes that are equally often."""
    rng, answers = np.random.default_rng(seed), Answers()
    for number, loss in enumerate(losses):
        counts = np.bincount(rng.integers(0, classes, batch), minlength=classes)
        answers.take(number, Told(torch.tensor(loss), torch.tensor(counts[None], dtype=torch.float32)))
    return answers.at_guess()


@pytest.mark.parametrize(("classes", "batch"), [(100, 8), (10, 2), (4, 64)])
def test_small_batches_of_many_classes_are_held_against_all_that_was_asked(classes, batch):
    """A batch of 8 has an entropy of log 8 at most, under which a network of 100 classes is far better than a guess."""
    rng = np.random.default_rng(1)
    noise = rng.normal(size=64) / math.sqrt(batch)
    assert remembered(0.65 * math.log(classes) + 0.05 * noise, classes, batch) < 30
    assert remembered(1.03 * math.log(classes) + 0.05 * noise, classes, batch) >= 30


def test_losses_that_fall_are_not_at_a_guess():
    rng = np.random.default_rng(2)
    start = math.log(10) + 1.0
    noise = 0.1 * rng.normal(size=64)
    assert remembered(start + noise, 10, 32) == 64
    assert remembered(start + noise - np.linspace(0, 0.5, 64), 10, 32) == 0


class Reader(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.lstm, self.head = nn.LSTM(8, 16, batch_first=True), nn.Linear(16, 4)

    def forward(self, x):
        return self.head(self.lstm(x)[0][:, -1])


def watched_training(steps, at, answered=True):
    """Recall the symbol `at` steps back."""
    model, rng = Reader(), np.random.default_rng(1)
    optimiser = torch.optim.Adam(model.parameters(), lr=1e-2)
    with gt.watch(model) as watched:
        for _ in range(steps):
            symbols = rng.integers(0, 4, (64, 80))
            x = F.one_hot(torch.as_tensor(symbols), 8).float()
            y = torch.as_tensor(symbols[:, -1 - at])
            optimiser.zero_grad()
            z = model(x)
            (F.cross_entropy(z, y) if answered else F.mse_loss(z, F.one_hot(y, 4).float())).backward()
            optimiser.step()
        return watched.trace()


def test_a_short_memory_is_a_warning_where_the_loss_stays_at_a_guess():
    trace = watched_training(40, at=70)
    assert trace.at_guess >= 30
    found = trace.diagnose().find("forgetting")
    assert found.severity == "warning"
    assert "stayed at that of a guess" in found.cause


@pytest.mark.parametrize(("steps", "at", "answered"), [(40, 0, True), (10, 70, True), (40, 70, False)])
def test_and_information_where_it_is_learned_or_not_known(steps, at, answered):
    trace = watched_training(steps, at, answered)
    assert trace.at_guess < 30
    assert trace.diagnose().find("forgetting").severity == "information"
    assert trace.diagnose().healthy


def test_an_unknown_figure_is_refused_by_name():
    trace = watched_training(1, at=0)
    with pytest.raises(ValueError, match=r"name: expected one of .*log2_grad_output"):
        trace.figures("log2_gradient")
    with pytest.raises(TypeError, match="name"):
        trace.figures(3)
