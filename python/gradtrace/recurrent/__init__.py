"""Recurrent networks: LSTM, GRU and the plain RNN, and what a trace of them leaves behind."""

from gradtrace.recurrent.base import Recurrent
from gradtrace.recurrent.gru import GRU
from gradtrace.recurrent.influence import Influence
from gradtrace.recurrent.lstm import LSTM
from gradtrace.recurrent.rnn import RNN
from gradtrace.recurrent.trace import RecurrentTrace

__all__ = ["GRU", "LSTM", "RNN", "Influence", "Recurrent", "RecurrentTrace"]
