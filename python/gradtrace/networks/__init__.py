"""Networks whose gradients are traced, thin over the core."""

from gradtrace.networks.gru import GRU
from gradtrace.networks.lstm import LSTM
from gradtrace.networks.recurrent import Recurrent
from gradtrace.networks.rnn import RNN
from gradtrace.networks.stack import Stack

__all__ = ["GRU", "LSTM", "RNN", "Recurrent", "Stack"]
