# ruff: noqa: A002, E501, RET504, RUF059  (as people write them; tables)
"""Modules of sequences as tutorials and repositories write them, each with a forward pass of its own: they become recurrent networks."""

import math

import pytest

torch = pytest.importorskip("torch")
nn, F = torch.nn, torch.nn.functional
from torch.nn.utils.rnn import pack_padded_sequence  # noqa: E402  behind the check

I, H, V = 3, 6, 11  # noqa: E741


class LSTMModel(nn.Module):
    def __init__(self, input_size=I, hidden_size=H, num_layers=2, num_classes=4):
        super().__init__()
        self.hidden_size = hidden_size
        self.num_layers = num_layers
        self.lstm = nn.LSTM(input_size, hidden_size, num_layers, batch_first=True)
        self.fc = nn.Linear(hidden_size, num_classes)

    def forward(self, x):
        h0 = torch.zeros(self.num_layers, x.size(0), self.hidden_size).to(x.device)
        c0 = torch.zeros(self.num_layers, x.size(0), self.hidden_size, device=x.device)
        out, _ = self.lstm(x, (h0.to(x.dtype), c0.type_as(x)))
        out = self.fc(out[:, -1, :])
        return out


class Detached(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer_dim, self.hidden_dim = 1, H
        self.rnn = nn.RNN(I, H, 1, batch_first=True, nonlinearity="relu")
        self.fc = nn.Linear(H, 2)

    def forward(self, x):
        h0 = torch.zeros(self.layer_dim, x.size(0), self.hidden_dim, dtype=x.dtype).requires_grad_()
        out, hn = self.rnn(x, h0.detach())
        return self.fc(out[:, -1, :])


class SentimentGRU(nn.Module):
    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(V, I, padding_idx=0)
        self.gru = nn.GRU(I, H, num_layers=2, batch_first=True, dropout=0.3)
        self.dropout = nn.Dropout(0.3)
        self.fc = nn.Linear(H, 1)

    def forward(self, text):
        embedded = self.dropout(self.embedding(text))
        output, hidden = self.gru(embedded)
        return torch.sigmoid(self.fc(self.dropout(hidden[-1, :, :]))).squeeze(1)


class BiLSTM(nn.Module):
    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(V, I)
        self.rnn = nn.LSTM(I, H, num_layers=2, bidirectional=True)
        self.fc = nn.Linear(2 * H, 3)
        self.dropout = nn.Dropout(0.5)

    def forward(self, text):
        embedded = self.dropout(self.embedding(text))
        output, (hidden, cell) = self.rnn(embedded)
        hidden = self.dropout(torch.cat((hidden[-2, :, :], hidden[-1, :, :]), dim=1))
        return self.fc(hidden)


class Packed(nn.Module):
    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(V, I, padding_idx=0)
        self.lstm = nn.LSTM(I, H, batch_first=True)
        self.fc = nn.Sequential(nn.Linear(H, 5), nn.ReLU(), nn.Linear(5, 2))

    def forward(self, text, lengths):
        packed = pack_padded_sequence(self.embedding(text), lengths.cpu(), batch_first=True, enforce_sorted=False)
        _, (hidden, _) = self.lstm(packed)
        return self.fc(hidden[-1])


class PackedTagger(nn.Module):
    def __init__(self):
        super().__init__()
        self.embedding, self.lstm, self.fc = nn.Embedding(V, I), nn.LSTM(I, H, bidirectional=True), nn.Linear(2 * H, 4)

    def forward(self, text, lengths):
        packed = nn.utils.rnn.pack_padded_sequence(self.embedding(text), lengths)
        outputs, _ = self.lstm(packed)
        outputs, _ = nn.utils.rnn.pad_packed_sequence(outputs)
        return self.fc(outputs)


class LanguageModel(nn.Module):
    def __init__(self):
        super().__init__()
        self.drop = nn.Dropout(0.2)
        self.encoder = nn.Embedding(V, H)
        self.rnn = nn.LSTM(H, H, 2, dropout=0.2)
        self.decoder = nn.Linear(H, V)
        self.decoder.weight = self.encoder.weight
        self.ntoken = V

    def forward(self, input, hidden=None):
        emb = self.drop(self.encoder(input))
        output, hidden = self.rnn(emb, hidden)
        output = self.drop(output)
        decoded = self.decoder(output)
        decoded = decoded.view(-1, self.ntoken)
        return F.log_softmax(decoded, dim=1), hidden


class CharRNN(nn.Module):
    def __init__(self):
        super().__init__()
        self.n_hidden = H
        self.lstm = nn.LSTM(V, H, 2, dropout=0.5, batch_first=True)
        self.dropout = nn.Dropout(0.5)
        self.fc = nn.Linear(H, V)

    def forward(self, x, hidden):
        r_output, hidden = self.lstm(x, hidden)
        out = self.dropout(r_output)
        out = out.contiguous().view(-1, self.n_hidden)
        out = self.fc(out)
        return out, hidden


class Sentiment(nn.Module):
    def __init__(self):
        super().__init__()
        self.n_layers, self.hidden_dim = 2, H
        self.embedding = nn.Embedding(V, I)
        self.lstm = nn.LSTM(I, H, 2, dropout=0.5, batch_first=True)
        self.fc, self.sig = nn.Linear(H, 1), nn.Sigmoid()

    def init_hidden(self, batch_size):
        weight = next(self.parameters()).data
        return (
            weight.new(self.n_layers, batch_size, self.hidden_dim).zero_(),
            weight.new(self.n_layers, batch_size, self.hidden_dim).zero_(),
        )

    def forward(self, x):
        batch_size = x.size(0)
        lstm_out, _ = self.lstm(self.embedding(x), self.init_hidden(batch_size))
        lstm_out = lstm_out.contiguous().view(-1, self.hidden_dim)
        sig_out = self.sig(self.fc(lstm_out))
        sig_out = sig_out.view(batch_size, -1)
        return sig_out[:, -1]


class Flattened(nn.Module):
    def __init__(self):
        super().__init__()
        self.hidden_size = H
        self.gru = nn.GRU(I, H, batch_first=True)
        self.fc_1, self.fc, self.relu = nn.Linear(H, 8), nn.Linear(8, 1), nn.ReLU()

    def forward(self, x):
        output, hn = self.gru(x)
        hn = hn.view(-1, self.hidden_size)
        return self.fc(self.relu(self.fc_1(hn)))


class Squeezed(nn.Module):
    def __init__(self):
        super().__init__()
        self.rnn, self.linear = nn.GRU(I, H), nn.Linear(H, 2)

    def forward(self, x):
        assert x.dim() == 3
        _, hn = self.rnn(x)
        return self.linear(hn.squeeze(0))


class Stacked(nn.Module):
    def __init__(self):
        super().__init__()
        self.rnn1 = nn.LSTM(input_size=I, hidden_size=2 * H, num_layers=1, batch_first=True)
        self.rnn2 = nn.LSTM(input_size=2 * H, hidden_size=H, num_layers=1, batch_first=True)
        self.output_layer = nn.Linear(H, I)

    def forward(self, x):
        x, (_, _) = self.rnn1(x)
        x, (hidden_n, _) = self.rnn2(x)
        return self.output_layer(x)


class LoopOfLayers(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = nn.ModuleList([nn.GRU(I if i == 0 else H, H, batch_first=True) for i in range(3)])
        self.head = nn.Linear(H, 2)

    def forward(self, x):
        for layer in self.layers:
            x, h = layer(x)
        return self.head(h[-1])


class Transposed(nn.Module):
    def __init__(self):
        super().__init__()
        self.lstm, self.fc = nn.LSTM(I, H), nn.Linear(H, 2)

    def forward(self, x):
        x = x.permute(1, 0, 2)
        out, (h, c) = self.lstm(x)
        return self.fc(out[-1])


class Normalised(nn.Module):
    def __init__(self):
        super().__init__()
        self.register_buffer("mean", torch.tensor([1.0, 0.0, -2.0]))
        self.register_buffer("std", torch.tensor([2.0, 1.0, 0.5]))
        self.lstm, self.fc = nn.LSTM(I, H, batch_first=True, bidirectional=True), nn.Linear(2 * H, 2)

    def forward(self, x):
        out, _ = self.lstm((x - self.mean) / self.std)
        return self.fc(out)


class ScaledEmbedding(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed, self.gru, self.out = nn.Embedding(V, I), nn.GRU(I, H), nn.Linear(H, V)

    def forward(self, tokens, hidden=None):
        x = self.embed(tokens) * math.sqrt(3)
        x, hidden = self.gru(x, hidden)
        return self.out(x), hidden


class FinalNorm(nn.Module):
    def __init__(self):
        super().__init__()
        self.lstm, self.bn, self.fc = nn.LSTM(I, H, batch_first=True), nn.BatchNorm1d(H), nn.Linear(H, 2)

    def forward(self, x):
        _, (h, _) = self.lstm(x)
        return self.fc(self.bn(h[-1]))


TAKEN = {
    "lstm": LSTMModel, "detached": Detached, "sentiment, gru": SentimentGRU, "both ways": BiLSTM, "packed": Packed, "packed tagger": PackedTagger,
    "language model": LanguageModel, "characters": CharRNN, "sentiment": Sentiment, "flattened": Flattened, "squeezed": Squeezed, "stacked": Stacked,
    "loop of layers": LoopOfLayers, "transposed": Transposed, "normalised": Normalised, "scaled embedding": ScaledEmbedding, "final norm": FinalNorm,
}  # fmt: skip
