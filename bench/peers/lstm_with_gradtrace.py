"""gradtrace itself: one call, and all its other figures come with it."""

import gradtrace as gt
from bench.peers.contender import Contender
from bench.recurrent import LstmNetwork, norms_of


def prepare(network: LstmNetwork):
    gt.set_num_threads(1)
    lstm = network.lstm()
    return lambda: lstm.trace(network.x, cotangent=network.cotangent)


CONTENDERS = [Contender("gradtrace", prepare, norms_of)]
