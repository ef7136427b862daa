"""gradtrace itself: one call, and all its other figures come with it."""

import gradtrace as gt
from bench.peers.contender import Contender, at_high_precision
from bench.recurrent import LstmNetwork, norms_of


def prepare(network: LstmNetwork):
    lstm = network.lstm()
    return lambda: lstm.trace(network.x, cotangent=network.cotangent)


CONTENDERS = [Contender("gradtrace", prepare, norms_of)]
if gt.isa.active() == "amx":
    CONTENDERS.append(Contender("gradtrace, high", at_high_precision(prepare), norms_of))
