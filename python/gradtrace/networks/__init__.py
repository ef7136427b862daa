"""Networks whose gradients are traced, thin over the core."""

from gradtrace.networks.cells import CLASSES, GRU, LSTM, RNN
from gradtrace.networks.recurrent import Recurrent
from gradtrace.networks.stack import Stack

__all__ = ["CLASSES", "GRU", "LSTM", "RNN", "Recurrent", "Stack"]
