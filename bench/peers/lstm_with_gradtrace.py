"""gradtrace itself: one call, and all its other figures come with it."""

from bench.peers.contender import Contender
from bench.recurrent import LstmNetwork, norms_of


def prepare(network: LstmNetwork):
    lstm = network.lstm()
    return lambda: lstm.trace(network.x, cotangent=network.cotangent)


CONTENDERS = [Contender("gradtrace", prepare, norms_of)]
