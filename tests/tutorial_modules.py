# ruff: noqa: E501, RET504  (as people write them; tables)
"""Feed-forward modules as tutorials and repositories write them, each with a forward pass of its own: they become stacks."""

import math

import pytest

torch = pytest.importorskip("torch")
nn, F = torch.nn, torch.nn.functional


class Digits(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc1 = nn.Linear(64, 32)
        self.fc2 = nn.Linear(32, 32)
        self.fc3 = nn.Linear(32, 10)

    def forward(self, x):
        x = x.view(-1, 64)
        x = F.relu(self.fc1(x))
        x = F.relu(self.fc2(x))
        return self.fc3(x)


class DigitsWithDropout(nn.Module):
    def __init__(self, hidden: int = 24) -> None:
        super().__init__()
        self.fc1 = nn.Linear(8 * 8, hidden)
        self.dropout = nn.Dropout(0.25)
        self.fc2 = nn.Linear(hidden, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.flatten(x, 1)
        x = self.dropout(torch.tanh(self.fc1(x)))
        x = self.fc2(x)
        output = F.log_softmax(x, dim=1)
        return output


class NeuralNetwork(nn.Module):
    def __init__(self):
        super().__init__()
        self.flatten = nn.Flatten()
        self.linear_relu_stack = nn.Sequential(
            nn.Linear(8 * 8, 20), nn.ReLU(), nn.Linear(20, 20), nn.ReLU(), nn.Linear(20, 10)
        )

    def forward(self, x):
        x = self.flatten(x)
        logits = self.linear_relu_stack(x)
        return logits


class Regression(nn.Module):
    def __init__(self, n_feature=3, n_hidden=10, n_output=1):
        super().__init__()
        self.hidden = nn.Linear(n_feature, n_hidden)
        self.predict = nn.Linear(n_hidden, n_output)

    def forward(self, x):
        x = torch.sigmoid(self.hidden(x))
        x = self.predict(x)
        return x.squeeze(-1)


class Layers(nn.Module):
    def __init__(self, sizes=(5, 8, 8, 3), act=nn.GELU):
        super().__init__()
        self.layers = nn.ModuleList([nn.Linear(a, b) for a, b in zip(sizes[:-1], sizes[1:], strict=True)])
        self.act = act()

    def forward(self, x):
        for layer in self.layers[:-1]:
            x = self.act(layer(x))
        return self.layers[-1](x)


class Enumerated(nn.Module):
    def __init__(self, layers=6):
        super().__init__()
        self.linears = nn.ModuleList(nn.Linear(7, 7, bias=False) for _ in range(layers))
        self.p = 0.1

    def forward(self, x):
        for i, linear in enumerate(self.linears):
            x = linear(x)
            if i != len(self.linears) - 1:
                x = F.dropout(F.leaky_relu(x, negative_slope=0.2), p=self.p, training=self.training)
        return x


class WithFlags(nn.Module):
    def __init__(self, use_norm=True, final=None):
        super().__init__()
        self.use_norm = use_norm
        self.fc1 = nn.Linear(6, 9)
        self.norm = nn.BatchNorm1d(9) if use_norm else None
        self.fc2 = nn.Linear(9, 2)
        self.final = final

    def forward(self, x, return_hidden=False, mask=None):
        h = self.fc1(x)
        if self.norm is not None:
            h = self.norm(h)
        h = F.relu(h)
        if mask is not None:
            h = h * mask
        out = self.fc2(h)
        if self.final is not None:
            out = self.final(out)
        return (out, h) if return_hidden else out


class BatchNormed(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc1, self.bn1 = nn.Linear(6, 9), nn.BatchNorm1d(9)
        self.fc2, self.bn2 = nn.Linear(9, 9), nn.BatchNorm1d(9)
        self.out = nn.Linear(9, 1)

    def forward(self, inputs):
        x = self.bn1(F.relu(self.fc1(inputs)))
        x = self.bn2(F.relu(self.fc2(x)))
        return torch.sigmoid(self.out(x))


class LayerNormed(nn.Module):
    def __init__(self, eps=1e-5):
        super().__init__()
        self.fc1, self.ln1 = nn.Linear(6, 9), nn.LayerNorm(9, eps=eps)
        self.fc2, self.ln2 = nn.Linear(9, 9), nn.LayerNorm(9, eps=eps)
        self.out = nn.Linear(9, 3)

    def forward(self, x):
        x = F.silu(self.ln1(self.fc1(x)))
        x = F.silu(self.ln2(self.fc2(x)))
        return self.out(x)


class Residual(nn.Module):
    def __init__(self, dim):
        super().__init__()
        self.fc = nn.Linear(dim, dim)

    def forward(self, x):
        return x + F.relu(self.fc(x))


class ResidualMLP(nn.Module):
    def __init__(self, blocks=4):
        super().__init__()
        self.stem = nn.Linear(5, 8)
        self.blocks = nn.Sequential(*[Residual(8) for _ in range(blocks)])
        self.head = nn.Linear(8, 2)

    def forward(self, x):
        return self.head(self.blocks(torch.relu(self.stem(x))))


class SumBeforeActivation(nn.Module):
    def __init__(self):
        super().__init__()
        self.inp, self.fc, self.out = nn.Linear(5, 8), nn.Linear(8, 8), nn.Linear(8, 2)

    def forward(self, x):
        x = F.relu(self.inp(x))
        identity = x
        out = self.fc(x)
        out += identity
        out = F.relu(out)
        return self.out(out)


class ReZero(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = nn.ModuleList([nn.Linear(6, 6) for _ in range(5)])
        self.resweight = nn.Parameter(torch.tensor(0.3))

    def forward(self, x):
        for layer in self.layers:
            x = x + self.resweight * torch.tanh(layer(x))
        return x


class ScaledResidual(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = nn.ModuleList([nn.Linear(6, 6) for _ in range(4)])
        self.head = nn.Linear(6, 2)

    def forward(self, x):
        scale = 1 / math.sqrt(len(self.layers))
        for layer in self.layers:
            x = x + scale * torch.relu(layer(x))
        return self.head(x)


class PostNorm(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(8, 8), nn.Linear(8, 8)
        self.norm1, self.norm2 = nn.LayerNorm(8), nn.LayerNorm(8)

    def forward(self, x):
        x = self.norm1(x + self.fc1(x))
        return self.norm2(x + self.fc2(x))


class AutoEncoder(nn.Module):
    def __init__(self):
        super().__init__()
        self.encoder = nn.Sequential(nn.Linear(64, 16), nn.Tanh(), nn.Linear(16, 3))
        self.decoder = nn.Sequential(nn.Linear(3, 16), nn.Tanh(), nn.Linear(16, 64), nn.Sigmoid())

    def forward(self, x):
        encoded = self.encoder(x)
        decoded = self.decoder(encoded)
        return encoded, decoded


class TiedAutoEncoder(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(4, 12) * 0.3)
        self.b1, self.b2 = nn.Parameter(torch.randn(4)), nn.Parameter(torch.randn(12))

    def forward(self, x):
        z = torch.tanh(F.linear(x, self.weight, self.b1))
        return F.linear(z, self.weight.t(), self.b2)


class FromScratch(nn.Module):
    def __init__(self):
        super().__init__()
        self.weights = nn.Parameter(torch.randn(6, 5) / math.sqrt(6))
        self.bias = nn.Parameter(torch.randn(5))
        self.w2 = nn.Parameter(torch.randn(5, 3) / math.sqrt(5))
        self.b2 = nn.Parameter(torch.randn(3))

    def forward(self, xb):
        h = torch.relu(xb @ self.weights + self.bias)
        return torch.matmul(h, self.w2) + self.b2


class Standardised(nn.Module):
    def __init__(self):
        super().__init__()
        self.register_buffer("mean", torch.tensor([1.0, -2.0, 0.5]))
        self.register_buffer("std", torch.tensor([2.0, 0.5, 3.0]))
        self.net = nn.Sequential(nn.Linear(3, 8), nn.ReLU(), nn.Linear(8, 1))

    def forward(self, x):
        x = (x - self.mean) / self.std
        return self.net(x)


class Pixels(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(64, 16), nn.Linear(16, 10)

    def forward(self, x):
        assert x.shape[1] == 64, "expected 8 x 8 images"
        x = x / 255.0
        x = 2 * x - 1
        return self.fc2(F.elu(self.fc1(x)))


class Swish(nn.Module):
    def forward(self, x):
        return x * torch.sigmoid(x)


class SwishNet(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc1, self.act1 = nn.Linear(4, 9), Swish()
        self.fc2, self.act2 = nn.Linear(9, 9), Swish()
        self.fc3 = nn.Linear(9, 2)

    def forward(self, x):
        return self.fc3(self.act2(self.fc2(self.act1(self.fc1(x)))))


class SpelledOut(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b, self.c, self.d = nn.Linear(4, 6), nn.Linear(6, 6), nn.Linear(6, 6), nn.Linear(6, 6)
        self.e = nn.Linear(6, 2)

    def forward(self, x):
        x = 1 / (1 + torch.exp(-self.a(x)))
        x = self.b(x).clamp(min=0)
        z = self.c(x)
        x = 0.5 * z * (1 + torch.erf(z / math.sqrt(2)))
        x = torch.log(1 + torch.exp(self.d(x)))
        return self.e(x)


class PINN(nn.Module):
    def __init__(self, width=10, depth=4):
        super().__init__()
        self.inp = nn.Linear(2, width)
        self.hidden = nn.ModuleList([nn.Linear(width, width) for _ in range(depth)])
        self.out = nn.Linear(width, 1)
        self.a = 1.5

    def forward(self, xt):
        u = torch.tanh(self.a * self.inp(xt))
        for fc in self.hidden:
            u = torch.tanh(self.a * fc(u))
        return self.out(u)


class Policy(nn.Module):
    def __init__(self):
        super().__init__()
        self.affine1 = nn.Linear(4, 16)
        self.dropout = nn.Dropout(p=0.6)
        self.affine2 = nn.Linear(16, 2)
        self.saved_log_probs, self.rewards = [], []

    def forward(self, x):
        x = self.affine1(x)
        x = self.dropout(x)
        x = F.relu(x)
        action_scores = self.affine2(x)
        return F.softmax(action_scores, dim=1)


class Generator(nn.Module):
    def __init__(self):
        super().__init__()
        self.img_shape = (1, 4, 4)

        def block(i, o, normalize=True):
            layers = [nn.Linear(i, o)]
            if normalize:
                layers.append(nn.BatchNorm1d(o, 0.8))
            layers.append(nn.LeakyReLU(0.2, inplace=True))
            return layers

        self.model = nn.Sequential(*block(5, 8, normalize=False), *block(8, 12), nn.Linear(12, 16), nn.Tanh())

    def forward(self, z):
        img = self.model(z)
        return img.view(img.size(0), *self.img_shape)


class ModelOutput(nn.Module):
    def __init__(self):
        super().__init__()
        self.backbone, self.classifier = nn.Linear(6, 8), nn.Linear(8, 3)

    def forward(self, input_values, labels=None):
        pooled = torch.tanh(self.backbone(input_values))
        logits = self.classifier(pooled)
        loss = None
        if labels is not None:
            loss = F.cross_entropy(logits, labels)
        return {"loss": loss, "logits": logits, "probabilities": torch.softmax(logits, dim=-1)}


class Temperature(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc1, self.fc2, self.temperature = nn.Linear(6, 8), nn.Linear(8, 3), 2.5

    def forward(self, x):
        if x.dim() > 2:
            x = x.flatten(start_dim=1)
        return F.softmax(self.fc2(F.softplus(self.fc1(x))) / self.temperature, dim=-1)


class Wrapped(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = nn.DataParallel(Layers())

    def forward(self, x):
        return self.net(x)


TAKEN = {
    "digits": (Digits, (64,)), "dropout": (DigitsWithDropout, (64,)), "flatten": (NeuralNetwork, (1, 8, 8)), "regression": (Regression, (3,)),
    "layers": (Layers, (5,)), "layers, relu": (lambda: Layers((5, 9, 9, 9, 2), nn.ReLU), (5,)), "enumerated": (Enumerated, (7,)),
    "flags": (WithFlags, (6,)), "flags, no norm": (lambda: WithFlags(False, nn.Sigmoid()), (6,)), "batch norms": (BatchNormed, (6,)),
    "layer norms": (LayerNormed, (6,)), "layer norms, epsilon": (lambda: LayerNormed(1e-12), (6,)), "residual": (ResidualMLP, (5,)),
    "sum before activation": (SumBeforeActivation, (5,)), "rezero": (ReZero, (6,)), "scaled residual": (ScaledResidual, (6,)),
    "post norm": (PostNorm, (8,)), "autoencoder": (AutoEncoder, (64,)), "tied": (TiedAutoEncoder, (12,)), "from scratch": (FromScratch, (6,)),
    "standardised": (Standardised, (3,)), "pixels": (Pixels, (64,)), "swish": (SwishNet, (4,)), "spelled out": (SpelledOut, (4,)), "pinn": (PINN, (2,)),
    "policy": (Policy, (4,)), "generator": (Generator, (5,)), "dictionary": (ModelOutput, (6,)), "temperature": (Temperature, (6,)),
    "wrapped": (Wrapped, (5,)),
}  # fmt: skip
