"""``python -m bench.critical_gains [NAME ...]``: critical gains of random networks, beside those of mean field.

For every activation that has one: networks of 128 to 1,024 units at eight gains about it, bits a layer over the layers
beyond 3 xi_q, the root of their regression on the logarithm of the gain, and the line of the roots in 1/n at infinite
width; standard errors over networks. Networks are as many as make each width's root about equally sure.
"""

from __future__ import annotations

import sys
import time

import numpy as np

import gradtrace as gt

WIDTHS, DEPTH, GAINS, SAMPLES = (128, 256, 512, 1024), 100, 8, 2
NETWORKS = {128: 320, 256: 160, 512: 80, 1024: 40}
BIASES: dict[str, tuple[float, ...]] = dict.fromkeys(("tanh", "erf", "hard_tanh", "elu", "selu"), (0.05**0.5,))
BIASES |= {"sigmoid": (0.05**0.5, 0.0)} | dict.fromkeys(("relu", "leaky_relu", "linear"), (0.0,))
SPANS = {"sigmoid": (0.96, 1.12)}  # of the gains, about theory's; narrow networks of it turn late
NONE = ("gelu", "silu", "softplus")
MOST_ERROR, MOST_APART = 1e-3, 3.0  # of the gain; standard errors


def main(names: list[str]) -> None:
    print("activation  bias variance    theory   measured  +-        apart  seconds")
    for name in names or [*BIASES, *NONE]:
        for bias in BIASES.get(name, (0.05**0.5, 0.0)):
            theory = gt.theory.critical_line(name, bias).gain
            if name in NONE:
                print(f"{name:11} {bias**2:13.2f}  {theory:8} (none: no fixed point, or an unstable one)")
                continue
            start = time.perf_counter()
            gain, error = measured(name, bias, theory)
            apart = (gain - theory) / error
            good = abs(apart) < MOST_APART and error < MOST_ERROR * gain
            print(
                f"{name:11} {bias**2:13.2f}  {theory:8.5f}  {gain:8.5f}  {error:.5f}  {apart:+5.2f}  "
                f"{time.perf_counter() - start:6.1f}{'' if good else '  NOT within the limits'}",
                flush=True,
            )


def measured(name: str, bias: float, about: float) -> tuple[float, float]:
    """Give the gain at infinite width and its standard error."""
    roots, errors = [], []
    for width in WIDTHS:
        sweep = gt.sweep(
            width=width,
            depth=DEPTH,
            activation=name,
            gain=about * np.geomspace(*SPANS.get(name, (0.985, 1.04)), GAINS),
            bias_std=bias,
            networks=NETWORKS[width],
            samples=SAMPLES,
            figures=["log2_delta"],
            keep="moments",
            progress=False,
        )
        critical = sweep.critical()
        roots.append(critical.gain.ravel()[0])
        errors.append(critical.standard_error.ravel()[0])
    design = np.vander(1 / np.array(WIDTHS), 2, increasing=True) / np.array(errors)[:, None]
    covariance = np.linalg.inv(design.T @ design)
    fit = covariance @ design.T @ (np.array(roots) / errors)
    return float(fit[0]), float(np.sqrt(covariance[0, 0]))


if __name__ == "__main__":
    main(sys.argv[1:])
