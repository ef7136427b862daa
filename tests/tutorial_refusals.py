# ruff: noqa: E501  (as people write them; tables)
"""Modules as people write them that no network of ours is: the line that says why ends in "# here"."""

import pytest

torch = pytest.importorskip("torch")
nn, F = torch.nn, torch.nn.functional

I, H, V = 3, 6, 11  # noqa: E741


class TwoLayerBlock(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(6, 6), nn.Linear(6, 6)

    def forward(self, x):
        h = F.relu(self.fc1(x))
        return x + self.fc2(h)  # here


class PreNorm(nn.Module):
    def __init__(self):
        super().__init__()
        self.inp, self.norm, self.fc = nn.Linear(5, 6), nn.LayerNorm(6), nn.Linear(6, 6)

    def forward(self, x):
        x = F.relu(self.inp(x))
        return x + self.fc(self.norm(x))  # here


class ActorCritic(nn.Module):
    def __init__(self):
        super().__init__()
        self.affine1, self.action_head, self.value_head = nn.Linear(4, 8), nn.Linear(8, 2), nn.Linear(8, 1)

    def forward(self, x):
        x = F.relu(self.affine1(x))
        action_prob = F.softmax(self.action_head(x), dim=-1)
        state_values = self.value_head(x)  # here
        return action_prob, state_values


class DynamicNet(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(4, 4), nn.Linear(4, 4)

    def forward(self, x):
        x = self.a(x)
        while x.norm() > 1:  # here
            x = self.b(x)
        return x


class VAE(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc1, self.mu, self.logvar, self.out = nn.Linear(6, 8), nn.Linear(8, 2), nn.Linear(8, 2), nn.Linear(2, 6)

    def forward(self, x):
        h = F.relu(self.fc1(x))
        mu, logvar = self.mu(h), self.logvar(h)  # here
        return self.out(mu + torch.randn_like(mu) * torch.exp(0.5 * logvar))


class Actor(nn.Module):
    def __init__(self, max_action=2.0):
        super().__init__()
        self.l1, self.l2, self.max_action = nn.Linear(3, 8), nn.Linear(8, 1), max_action

    def forward(self, state):
        a = F.relu(self.l1(state))
        return self.max_action * torch.tanh(self.l2(a))  # here


class TwoTowers(nn.Module):
    def __init__(self):
        super().__init__()
        self.user, self.item = nn.Linear(4, 8), nn.Linear(3, 8)

    def forward(self, user, item):
        u = torch.tanh(self.user(user))
        i = torch.tanh(self.item(item))  # here
        return (u * i).sum(1)


class Siren(nn.Module):
    def __init__(self):
        super().__init__()
        self.l1, self.l2 = nn.Linear(2, 8), nn.Linear(8, 1)

    def forward(self, x):
        return self.l2(torch.sin(30 * self.l1(x)))  # here


class ConvNet(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv1, self.fc = nn.Conv2d(1, 4, 3), nn.Linear(144, 10)

    def forward(self, x):
        x = F.max_pool2d(F.relu(self.conv1(x)), 1)  # here
        return self.fc(torch.flatten(x, 1))


class Gated(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.g = nn.Linear(5, 5), nn.Linear(5, 5)

    def forward(self, x):
        return torch.tanh(self.a(x)) * torch.sigmoid(self.g(x))  # here


class Einsum(nn.Module):
    def __init__(self):
        super().__init__()
        self.w = nn.Parameter(torch.randn(3, 5))

    def forward(self, x):
        return torch.einsum("bi,oi->bo", x, self.w)  # here


class MeanPool(nn.Module):
    def __init__(self):
        super().__init__()
        self.embedding, self.lstm, self.fc = nn.Embedding(V, I), nn.LSTM(I, H, batch_first=True), nn.Linear(H, 2)

    def forward(self, x):
        out, _ = self.lstm(self.embedding(x))
        return self.fc(out.mean(dim=1))  # here


class LastOfBoth(nn.Module):
    def __init__(self):
        super().__init__()
        self.lstm, self.fc = nn.LSTM(I, H, batch_first=True, bidirectional=True), nn.Linear(2 * H, 2)

    def forward(self, x):
        out, _ = self.lstm(x)
        return self.fc(out[:, -1, :])  # here


class Attention(nn.Module):
    def __init__(self):
        super().__init__()
        self.lstm, self.attn, self.fc = nn.LSTM(I, H, batch_first=True), nn.Linear(H, 1), nn.Linear(H, 2)

    def forward(self, x):
        out, _ = self.lstm(x)
        weights = torch.softmax(self.attn(out), dim=1)  # here
        return self.fc((weights * out).sum(1))


class CellLoop(nn.Module):
    def __init__(self):
        super().__init__()
        self.cell, self.fc = nn.LSTMCell(I, H), nn.Linear(H, 2)

    def forward(self, x):
        h, c = torch.zeros(x.size(1), H), torch.zeros(x.size(1), H)
        for t in range(x.size(0)):
            h, c = self.cell(x[t], (h, c))  # here
        return self.fc(h)


class LearnedState(nn.Module):
    def __init__(self):
        super().__init__()
        self.h0, self.gru, self.fc = nn.Parameter(torch.randn(1, 1, H)), nn.GRU(I, H), nn.Linear(H, 2)

    def forward(self, x):
        out, _ = self.gru(x, self.h0.expand(-1, x.size(1), -1).contiguous())  # here
        return self.fc(out[-1])


class RandomState(nn.Module):
    def __init__(self):
        super().__init__()
        self.rnn, self.fc = nn.RNN(I, H, batch_first=True), nn.Linear(H, 2)

    def forward(self, x):
        h0 = torch.randn(1, x.size(0), H)  # here
        out, _ = self.rnn(x, h0)
        return self.fc(out[:, -1])


class NormBetween(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.norm, self.b = nn.LSTM(I, H), nn.LayerNorm(H), nn.LSTM(H, H)

    def forward(self, x):
        x, _ = self.a(x)
        return self.b(self.norm(x))[0]  # here


class Seq2Seq(nn.Module):
    def __init__(self):
        super().__init__()
        self.encoder, self.decoder, self.fc = nn.GRU(I, H), nn.GRU(I, H), nn.Linear(H, I)

    def forward(self, source, target):
        _, state = self.encoder(source)
        out, _ = self.decoder(target, state)  # here
        return self.fc(out)


REFUSED = {
    "two-layer block": TwoLayerBlock, "pre-norm": PreNorm, "actor and critic": ActorCritic, "dynamic": DynamicNet, "vae": VAE, "actor": Actor,
    "two towers": TwoTowers, "siren": Siren, "convolution": ConvNet, "gated": Gated, "einsum": Einsum,
    "mean": MeanPool, "last of both": LastOfBoth, "attention": Attention, "cells": CellLoop, "learned state": LearnedState, "random state": RandomState,
    "norm between": NormBetween, "sequence to sequence": Seq2Seq,
}  # fmt: skip
