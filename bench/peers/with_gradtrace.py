"""gradtrace itself: one call, and all its other figures come with it."""

from bench.peers.contender import Contender
from bench.workloads import Network, Norms


def prepare(network: Network):
    return network.trace


CONTENDERS = [Contender("gradtrace", prepare, lambda trace: Norms(trace.log2_delta, trace.log2_grad_weight))]
