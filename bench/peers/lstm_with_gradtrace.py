"""gradtrace itself: one call, and all its other figures come with it; dL/dx, which no peer finds, only once."""

from functools import partial

import gradtrace as gt
from bench.peers.contender import Contender, at_high_precision
from bench.recurrent import LstmNetwork, norms_of


def prepare(network: LstmNetwork, input_gradient: bool = False):
    lstm = network.lstm()
    return lambda: lstm.trace(network.x, cotangent=network.cotangent, input_gradient=input_gradient)


CONTENDERS = [
    Contender("gradtrace", prepare, norms_of),
    Contender("gradtrace, dL/dx too", partial(prepare, input_gradient=True), norms_of),
]
if gt.isa.active() == "amx":
    CONTENDERS.append(Contender("gradtrace, high", at_high_precision(prepare), norms_of))
