"""gradtrace itself: one call, and all its other figures come with it."""

import gradtrace as gt
from bench.peers.contender import Contender
from bench.workloads import Network, Norms


def prepare(network: Network):
    gt.set_num_threads(1)
    return network.trace


CONTENDERS = [Contender("gradtrace", prepare, lambda trace: Norms(trace.log2_delta, trace.log2_grad_weight))]
