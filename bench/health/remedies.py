"""``python -m bench.health.remedies --half even``: what remedies say, beside what training in PyTorch then gave.

Broken networks of `drawn_stacks` (their labels say which) are given remedies; each remedy's network, and the network as
it is, is then trained by a loop of its own: mini-batches, a third of all samples held out, both optimisers, three seeds
of split and order, the best of its rates. Printed are the rank correlations (Spearman, ties within the spread over the
seeds) of each order with its optimiser's, of the common one with the mean of both, and of the optimisers among
themselves; whether the first one beats the network as it is; and how often "helps" was right. ``--again`` trains all of
them once more with three other seeds, and prints how far PyTorch's own orders agree, the most that any order can be
expected to, and the correlations with the order of all six seeds.
"""

from __future__ import annotations

import argparse
import json
import math
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

import gradtrace as gt

__all__ = ["judged", "spearman", "trained"]

RATES = {"sgd": (1.0, 0.1, 0.01, 1e-3), "adam": (1e-2, 1e-3)}
STEPS, BATCH, SEEDS = 150, 64, 3
MOST_WORK = 1.5e7  # multiplications of a forward pass


def _data(name: str, x: np.ndarray, target: np.ndarray, chosen: np.ndarray) -> tuple[np.ndarray, np.ndarray, float]:
    """Prepare the data as a user told to would; chosen are the samples trained on. Third: the loss's unit."""
    if name == "standardised_inputs":
        std = x[chosen].std(axis=0, dtype=np.float64)
        x = ((x - x[chosen].mean(axis=0, dtype=np.float64)) / np.where(std > 0, std, 1)).astype(np.float32)
    if name == "scaled_targets":
        unit = float((target[chosen] - target[chosen].mean(axis=0)).std()) or 1.0
        return x, ((target - target[chosen].mean(axis=0)) / unit).astype(np.float32), unit**2
    return x, target, 1.0


def trained(name: str, stack: gt.Stack, drawn: Any, optimiser: str, rate: float, seed: int) -> float:
    """Train in PyTorch; give the loss on the samples held out, inf where it diverges."""
    import torch

    from bench.health.training import as_function, loss_of, parameters_of

    g = np.random.default_rng([23, seed])
    order = g.permutation(len(drawn.x))
    held, chosen = order[: len(order) // 3], order[len(order) // 3 :]
    x, target, unit = _data(name, drawn.x, drawn.target, chosen)
    inputs, wanted = torch.tensor(x), torch.tensor(target)
    parameters = parameters_of(stack)
    some = [p for p in parameters if p is not None]
    step = torch.optim.SGD(some, rate, 0.9) if optimiser == "sgd" else torch.optim.Adam(some, rate)
    forward = as_function(stack, parameters)
    for _ in range(STEPS):
        rows = torch.tensor(g.choice(chosen, min(BATCH, len(chosen)), replace=False))
        step.zero_grad()
        loss = loss_of(forward(inputs[rows]), wanted[rows], drawn.loss)
        if not torch.isfinite(loss):
            return math.inf
        loss.backward()
        if name == "gradient_clipping":
            torch.nn.utils.clip_grad_norm_(some, 1.0)
        step.step()
    with torch.no_grad():
        end = float(loss_of(forward(inputs[held]), wanted[held], drawn.loss)) * unit
    return end if math.isfinite(end) else math.inf


def losses_of(name: str, stack: gt.Stack, drawn: Any, optimiser: str, start: int = 0) -> list[float]:
    """Give the losses of the seeds from `start` on at the rate that is best for the first."""
    first = {rate: trained(name, stack, drawn, optimiser, rate, start) for rate in RATES[optimiser]}
    best = min(first, key=lambda rate: first[rate])
    others = range(start + 1, start + SEEDS)
    return [first[best], *(trained(name, stack, drawn, optimiser, best, seed) for seed in others)]


def places(losses: dict[str, list[float]]) -> dict[str, float]:
    """Give places, 1 the lowest mean; losses whose differences are within their spread over the seeds share theirs."""
    mean = {name: float(np.mean(values)) for name, values in losses.items()}

    def tied(best: str, other: str) -> bool:
        if mean[best] == mean[other] or math.isinf(mean[other]):
            return mean[best] == mean[other]
        apart = np.subtract(losses[other], losses[best])
        return bool(apart.mean() <= 1.7 * apart.std(ddof=1))

    order = sorted(mean, key=lambda name: mean[name])
    found: dict[str, float] = {}
    at = 0
    while at < len(order):
        first, end = order[at], at + 1
        while end < len(order) and tied(first, order[end]):
            end += 1
        found |= dict.fromkeys(order[at:end], (at + 1 + end) / 2)
        at = end
    return found


def spearman(a: dict[str, float], b: dict[str, float]) -> float:
    """Give the correlation of two places; NaN where one has no order."""
    x, y = (np.array([one[name] for name in a]) for one in (a, b))
    if x.std() == 0 or y.std() == 0:
        return math.nan
    return float(np.corrcoef(x, y)[0, 1])


def common(places_of: dict[str, dict[str, float]]) -> dict[str, float]:
    """Give the mean of both optimisers' places."""
    return {name: (place + places_of["adam"][name]) / 2 for name, place in places_of["sgd"].items()}


def again(row: dict[str, Any], tried: Any, drawn: Any) -> None:
    """Train with three other seeds; add to a row how far both trainings agree, and the orders with all six."""
    once, twice, six = {}, {}, {}
    networks = {one.name: one.network for one in tried}
    for optimiser in RATES:
        ends = {name: values for name, values in row["ends"][optimiser].items() if name}
        other = {name: losses_of(name, networks[name], drawn, optimiser, SEEDS) for name in ends}
        once[optimiser], twice[optimiser] = places(ends), places(other)
        six[optimiser] = places({name: ends[name] + other[name] for name in ends})
        said = tried.places(optimiser)
        row[f"ceiling {optimiser}"] = spearman(once[optimiser], twice[optimiser])
        row[f"six {optimiser}"] = spearman({name: said[name] for name in ends}, six[optimiser])
    said = tried.places()
    row["ceiling common"] = spearman(common(once), common(twice))
    row["six common"] = spearman({name: said[name] for name in six["sgd"]}, common(six))


def judged(drawn: Any, told: Callable[[str], Any], twice: bool = False) -> dict[str, Any]:
    """Try remedies on a drawn network, train all of them, twice if so wished, and compare."""
    began = time.perf_counter()
    tried = drawn.stack.remedies(drawn.x, drawn.target, drawn.loss)
    row: dict[str, Any] = {"seed": drawn.seed, "what": drawn.what, "seconds": round(time.perf_counter() - began, 1)}
    row["notes"] = list(tried.notes)
    ends: dict[str, dict[str, list[float]]] = {optimiser: {} for optimiser in RATES}
    for name, stack in [("", drawn.stack), *((one.name, one.network) for one in tried)]:
        if name == "smaller_rate":
            continue
        for optimiser, found in ends.items():
            found[name] = losses_of(name, stack, drawn, optimiser)
    then = {optimiser: places({k: v for k, v in found.items() if k}) for optimiser, found in ends.items()}
    names, both = list(then["sgd"]), common(then)
    for optimiser in RATES:
        said = tried.places(optimiser)
        row[optimiser] = spearman({name: said[name] for name in names}, then[optimiser])
    said = tried.places()
    row["common"] = spearman({name: said[name] for name in names}, both)
    row["between"] = spearman(then["sgd"], then["adam"])
    row["first"] = tried.ranked()[0].name
    row["first_beats"] = [float(np.mean(ends[o][row["first"]])) < float(np.mean(ends[o][""])) for o in RATES]
    row["helps"] = {one.name: one.helps for one in tried}
    row["ends"] = {o: {k: [round(v, 4) for v in values] for k, values in found.items()} for o, found in ends.items()}
    row["said"] = {o: {one.name: round(one.trainings[o].score, 4) for one in tried} for o in RATES}
    if twice:
        again(row, tried, drawn)
    told(f"{drawn.seed}: sgd {row['sgd']:.2f}, adam {row['adam']:.2f}, common {row['common']:.2f}, {row['seconds']} s")
    return row


def broken(half: str, count: int) -> list[int]:
    """Give the first seeds of a half whose networks are labelled broken and small enough to train many times."""
    from bench.health.drawn_stacks import drawn_stack

    labels = json.loads((Path(__file__).parent / "stacks.json").read_text(encoding="utf-8"))
    found = []
    for seed in (int(key) for key, (verdict, _) in labels.items() if verdict == "broken"):
        if seed % 2 == (half == "odd"):
            drawn = drawn_stack(seed)
            sizes = drawn.stack.sizes
            work = len(drawn.x) * sum(a * b for a, b in zip(sizes[:-1], sizes[1:], strict=True))
            if work < MOST_WORK and len(drawn.x) >= 64:
                found.append(seed)
        if len(found) == count:
            break
    return found


def summary(rows: list[dict[str, Any]]) -> str:
    """Write the means, and how often the first remedy beats the network as it is."""
    lines = []
    orders = ("sgd", "adam", "common")
    more = [f"{what} {order}" for what in ("ceiling", "six") for order in orders]
    for name in (*orders, "between", *more):
        values = [row[name] for row in rows if name in row]
        if not values:
            continue
        lines.append(f"{name}: mean rank correlation {np.nanmean(values):.2f}, lowest {np.nanmin(values):.2f}")
    lines.append(f"first beats as it is: {sum(any(row['first_beats']) for row in rows)} of {len(rows)} with either, "
                 f"{sum(all(row['first_beats']) for row in rows)} with both")  # fmt: skip
    right = {True: [0, 0], False: [0, 0], None: [0, 0]}
    for row in rows:
        for name, helps in row["helps"].items():
            if name == "smaller_rate":
                continue
            lower = any(
                max(row["ends"][o][name]) < min(row["ends"][o][""]) and np.mean(row["ends"][o][name]) < math.inf
                for o in RATES
            )
            right[helps][not lower] += 1
    for helps, (yes, no) in right.items():
        lines.append(f"helps {helps}: {yes} lower by every seed, {no} not")
    lines.append(f"seconds: {max(row['seconds'] for row in rows)} at most")
    return "\n".join(lines)


def main() -> None:
    import torch

    from bench.health.drawn_stacks import drawn_stack

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--half", choices=("even", "odd"), default="even")
    parser.add_argument("--count", type=int, default=10)
    parser.add_argument("--output", type=Path, help="where every figure goes as JSON")
    parser.add_argument("--quiet", action="store_true", help="totals alone")
    parser.add_argument("--again", action="store_true", help="three more seeds: how far PyTorch agrees with itself")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    rows = []
    for seed in broken(options.half, options.count):
        rows.append(judged(drawn_stack(seed), (lambda text: None) if options.quiet else print, options.again))
        if options.output is not None:
            options.output.write_text(json.dumps(rows, indent=1), encoding="utf-8")
    print(summary(rows))


if __name__ == "__main__":
    main()
