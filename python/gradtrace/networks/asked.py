"""What a task asks for, from the data alone: how far back inputs lie that tell the target, and what a guess reaches."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from gradtrace.quiet import quiet

__all__ = ["FEWEST_SAMPLES", "AskedLater", "answer_lag", "chosen_sequences", "loss_of_guess", "some_entries"]

Floats = npt.NDArray[np.float64]

#: Different sequences below which nothing is said, by where the loss stands: targets at every step tell more.
FEWEST_SAMPLES = {"last": 12, "all": 8}
_MOST_SAMPLES, _MOST_ENTRIES, _MOST_STEPS = 256, 1 << 16, 8  # sequences, of them times steps, and steps with a target
_SEEN = 1024  # entries by which arrays are known again
_FOLDS = 4
_FEATURES, _OUTPUTS, _PRODUCTS = 8, 8, 3  # more inputs or classes are projected; products of so few inputs are tried
_RIDGE = 1e-2
_BEGINNING = 0.25  # share of what inputs tell: with it training has something to begin with
# Share of the variance below which nothing is told. Of a target of chance the best of 200 lags tells up to 10 over the
# number of sequences.
_LEAST, _BY_CHANCE = 0.1, 12.0


@quiet
def answer_lag(
    x: npt.NDArray[Any], target: npt.NDArray[Any], at: str, lengths: npt.NDArray[np.int64] | None
) -> int | None:
    """Tell how many steps back inputs lie that are needed for a quarter of what inputs tell of the target at all.

    The target is predicted from the input of every lag by least squares (from products, too, where inputs are few).
    The fits are shrunk by what chance explains, added up from the last input backwards, and judged on sequences that
    they were not made from. Three laws are tried: the same for every lag, another for each, and another for each step
    with a target, too. The best counts.

    Parameters
    ----------
    x : ndarray
        (T, B, I).
    target : ndarray
        (B,) or (B, n), or with ``at="all"`` (T, B) or (T, B, n).
    at : {"last", "all"}
    lengths : ndarray of int64, optional
        (B,).

    Returns
    -------
    int or None
        None where the data cannot tell: under 12 different sequences (8 with a target at every step), sequences of
        different lengths with a target at every step, or a target that no sum over single inputs predicts, such as a
        parity.
    """
    steps = len(x)
    if lengths is not None and (lengths != steps).any():
        if at == "all":
            return None
        x = _from_the_end(x, lengths)
    rows = chosen_sequences(x, target, at)
    if len(rows) < FEWEST_SAMPLES[at]:
        return None
    wanted, ends = _wanted(target[None, rows] if at == "last" else target[:, rows], steps)
    if not ends.size:
        return None
    inputs = _in_folds(_features(x[: ends.max() + 1, rows]))
    best, found = max(_LEAST, _BY_CHANCE / len(rows) / _different(wanted) ** 0.5), None
    for told in _told(inputs, _in_folds(wanted), ends):
        if told.max() > best:
            best, found = float(told.max()), int(np.argmax(told >= _BEGINNING * told.max()))
    return found


class AskedLater:
    """`answer_lag` of arrays that the user may have written to before it is called: then nothing is known.

    Parameters
    ----------
    x, target, at, lengths
        As `answer_lag` has them; `lengths` are the callee's own.
    """

    def __init__(
        self, x: npt.NDArray[Any], target: npt.NDArray[Any], at: str, lengths: npt.NDArray[np.int64] | None
    ) -> None:
        self._asked = (x, target, at, lengths)
        self._seen = [some_entries(x), some_entries(target)]

    def __call__(self) -> int | None:
        """Find it out; None where x or target are not what they were."""
        x, target, _, _ = self._asked
        same = all(map(np.array_equal, self._seen, (some_entries(x), some_entries(target))))
        return answer_lag(*self._asked) if same else None


def some_entries(values: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Copy some entries, of every part."""
    return np.array(values.reshape(-1)[:: values.size // _SEEN + 1])


@quiet
def loss_of_guess(target: npt.NDArray[Any], at: str, lengths: npt.NDArray[np.int64] | None) -> float:
    """Give the loss of the best guess that knows the step but none of the inputs.

    Parameters
    ----------
    target, at, lengths
        As `answer_lag` has them; of integers the loss is cross entropy, else mean squares.

    Returns
    -------
    float
    """
    rows = target[None] if at == "last" else target
    valid = np.ones(rows.shape[:2], bool)
    if at == "all" and lengths is not None:
        valid = np.arange(len(rows))[:, None] < lengths
    step = np.nonzero(valid)[0]
    if rows.dtype.kind in "iu":
        counts = np.unique(np.stack([step, rows[valid].astype(np.int64)]), axis=1, return_counts=True)
        share = counts[1] / valid.sum(axis=1)[counts[0][0]]
        return float(-(counts[1] * np.log(share)).sum() / valid.sum())
    values = rows.astype(np.float64).reshape(*rows.shape[:2], -1)
    mean = np.where(valid[..., None], values, 0).sum(axis=1) / np.maximum(valid.sum(axis=1), 1)[:, None]
    return float(((values - mean[:, None])[valid] ** 2).mean())


def _from_the_end(x: npt.NDArray[Any], lengths: npt.NDArray[np.int64]) -> npt.NDArray[Any]:
    """Move sequences so that all end at the last step; before their start is 0."""
    at = np.arange(len(x))[:, None] + (lengths - len(x))
    return np.where((at >= 0)[:, :, None], x[np.maximum(at, 0), np.arange(x.shape[1])], 0)


def chosen_sequences(x: npt.NDArray[Any], target: npt.NDArray[Any], at: str) -> npt.NDArray[np.intp]:
    """Choose different sequences, and their order, by what they hold: neither the user's order nor copies count."""
    asked = (target if at == "last" else np.moveaxis(target, 1, 0)).reshape(x.shape[1], -1)
    seen = np.random.default_rng(0).integers(1, 2**31, len(x) * x.shape[2] + asked.shape[1], dtype=np.int64)
    words = x.astype(np.float32).view(np.int32).astype(np.int64)
    digest = np.einsum("tbi,ti->b", words, seen[: len(x) * x.shape[2]].reshape(len(x), -1))
    digest += asked.astype(np.float32).view(np.int32).astype(np.int64) @ seen[len(x) * x.shape[2] :]
    rows = np.unique(digest, return_index=True)[1]
    most = min(len(rows), _MOST_SAMPLES, _MOST_ENTRIES // len(x))
    return rows[: most - most % _FOLDS]


def _in_folds(values: Floats) -> Floats:
    return np.ascontiguousarray(values.reshape(len(values), _FOLDS, -1, values.shape[-1]))


def _standard(values: Floats) -> Floats:
    """Subtract the mean over samples, the second axis from the end, and divide by the deviation."""
    centred = values - values.mean(axis=-2, keepdims=True)
    size = centred.std(axis=-2, keepdims=True)
    return np.asarray(centred / np.where(size > 1e-6 * np.abs(values).max(axis=-2, keepdims=True), size, np.inf))


def _projected(values: Floats, most: int) -> Floats:
    if values.shape[-1] <= most:
        return values
    return np.asarray(values @ np.random.default_rng(1).standard_normal((values.shape[-1], most)))


def _features(x: npt.NDArray[Any]) -> Floats:
    """Give what a fit may use of every input: (T, N, p)."""
    values = _standard(_projected(x.astype(np.float64), _FEATURES))
    if values.shape[-1] > _PRODUCTS:
        return values
    first, second = np.triu_indices(values.shape[-1])
    return np.concatenate([values, _standard(values[..., first] * values[..., second])], axis=-1)


def _wanted(target: npt.NDArray[Any], steps: int) -> tuple[Floats, npt.NDArray[np.intp]]:
    """Give the targets of some steps less their means, (S, N, c), and which steps they are."""
    if target.dtype.kind in "iu":
        values = (target[..., None] == np.unique(target)).astype(np.float64)
    else:
        values = target.astype(np.float64).reshape(*target.shape[:2], -1)
    values = _projected(values / max(float(np.abs(values).max(initial=0.0)), 1e-300), _OUTPUTS)
    values = values - values.mean(axis=1, keepdims=True)
    size = (values**2).sum(axis=(1, 2))
    ends = np.flatnonzero(size > size.max() / 2) if size.max() > 0 else np.empty(0, np.intp)
    ends = ends[np.unique(np.linspace(0, len(ends) - 1, _MOST_STEPS).astype(np.intp))] if ends.size else ends
    return values[ends], ends if len(values) > 1 else np.array([steps - 1])[: len(ends)]


def _different(wanted: Floats) -> float:
    """Give how many of the steps with a target ask for something else; 1 where all ask for the same."""
    rows = wanted.reshape(len(wanted), -1)
    rows = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    return float(len(rows) ** 2 / ((rows @ rows.T) ** 2).sum())


def _told(inputs: Floats, wanted: Floats, ends: npt.NDArray[np.intp]) -> Iterator[Floats]:
    """Give the share of the target's variance that inputs up to each lag tell on other folds: (T,) each.

    For one law that adds up all inputs up to the lag, for one of each lag, and for one of each lag and target's step.
    """
    variance = (wanted**2).sum(axis=(1, 2, 3))
    count = (1 - 1 / _FOLDS) * wanted.shape[1] * wanted.shape[2]
    rows = [inputs[end::-1] for end in ends]  # by lag
    sums = [np.cumsum(own, axis=0) / np.sqrt(np.arange(1, len(own) + 1))[:, None, None, None] for own in rows]
    law = _weights(*_together([_fit(*pair) for pair in zip(sums, wanted, strict=True)], variance, count))
    told = _shares((own @ law[: len(own)] for own in sums), wanted)
    yield np.maximum(told, told.max() * _built_up(sums[-1], law, int(told.argmax())))
    fits = [_fit(*pair) for pair in zip(rows, wanted, strict=True)]
    law = _weights(*_together(fits, variance, count))
    yield _shares((np.cumsum(own @ law[: len(own)], axis=0) for own in rows), wanted)
    if len(ends) > 1:
        laws = [_weights(*_together([fit], size, count)) for fit, size in zip(fits, variance[:, None], strict=True)]
        yield _shares((np.cumsum(own @ law, axis=0) for own, law in zip(rows, laws, strict=True)), wanted)


def _built_up(sums: Floats, law: Floats, most: int) -> Floats:
    """Give the share of a sum's variance that its inputs up to each lag have: few sequences show that better."""
    parts = (sums * np.sqrt(np.arange(1, len(sums) + 1))[:, None, None, None]) @ law[most]
    size = (parts**2).sum(axis=(1, 2, 3))
    return np.where(np.arange(len(sums)) <= most, np.minimum(size / max(float(size[most]), 1e-300), 1.0), 0.0)


def _fit(rows: Floats, asked: Floats) -> tuple[Floats, Floats]:
    """Give the sums of squares and products of the other folds, (T, folds, p, p) and (T, folds, p, c)."""
    turned = np.swapaxes(rows, 2, 3)
    return _of_others(turned @ rows), _of_others(turned @ asked)


def _of_others(sums: Floats) -> Floats:
    return np.asarray(sums.sum(axis=1, keepdims=True) - sums)


def _together(fits: list[tuple[Floats, Floats]], variance: Floats, count: float) -> tuple[Floats, ...]:
    """Add up over the steps with a target what each has at a lag; early steps have no long ones."""
    most = max(len(gram) for gram, _ in fits)
    gram, cross = (np.zeros((most, *part.shape[1:])) for part in fits[0])
    total = np.zeros((2, most))
    for (own_gram, own_cross), own_variance in zip(fits, variance, strict=True):
        there = slice(len(own_gram))
        gram[there] += own_gram
        cross[there] += own_cross
        total[:, there] += [[own_variance], [count]]
    return gram, cross, total[0], total[1]


def _weights(gram: Floats, cross: Floats, variance: Floats, count: Floats) -> Floats:
    """Fit by least squares, shrunk by what chance explains: (T, folds, p, c)."""
    count = count[:, None, None, None]
    weights = np.linalg.solve(gram + _RIDGE * count * np.eye(gram.shape[-1]), cross)
    explained = np.maximum((weights * cross).sum(axis=(2, 3), keepdims=True), 1e-300)
    left = np.maximum((1 - 1 / _FOLDS) * variance[:, None, None, None] - explained, 0.0)
    return np.asarray(weights * np.maximum(1 - left * gram.shape[-1] / count / explained, 0.0))


def _shares(scores: Iterable[Floats], wanted: Floats) -> Floats:
    """Give the squared correlation by lag."""
    parts = [
        (np.einsum("lfnc,fnc->l", score, asked), (score**2).sum(axis=(1, 2, 3)))
        for score, asked in zip(scores, wanted, strict=True)
    ]
    most = max(len(size) for _, size in parts)
    agreed, size = np.zeros((2, most))
    for own in parts:  # an early step is through with its inputs sooner
        agreed += np.pad(own[0], (0, most - len(own[0])), mode="edge")
        size += np.pad(own[1], (0, most - len(own[1])), mode="edge")
    return np.asarray(np.maximum(agreed, 0.0) ** 2 / np.maximum(size * (wanted**2).sum(), 1e-300))
