"""gradtrace itself: one call, and all its other figures come with it."""

import gradtrace as gt
from bench.peers.contender import Contender, at_high_precision
from bench.workloads import Network, Norms


def prepare(network: Network):
    return network.trace


def norms_of(trace: gt.StackTrace) -> Norms:
    return Norms(trace.log2_delta, trace.log2_grad_weight)


CONTENDERS = [Contender("gradtrace", prepare, norms_of)]
if gt.isa.active() == "amx":
    CONTENDERS.append(Contender("gradtrace, high", at_high_precision(prepare), norms_of))
