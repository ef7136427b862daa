"""Remedies on modules with a forward of their own: applied, read again and trainable; or refused and as they were."""

import copy

import numpy as np
import pytest
from test_remedies_apply import assert_untouched, state_of
from tolerances import tolerance

import gradtrace as gt
from gradtrace.remedies.recurrent_changes import RECURRENT_CHANGES
from gradtrace.remedies.stack_changes import STACK_CHANGES, TRAINING_CHANGES

torch = pytest.importorskip("torch")
import tutorial_modules  # noqa: E402  needs PyTorch
import tutorial_recurrent_modules  # noqa: E402

nn, F = torch.nn, torch.nn.functional
parametrizations = nn.utils.parametrizations

OF_STACKS = [name for name in STACK_CHANGES if name not in TRAINING_CHANGES]
OF_RECURRENT = [name for name in RECURRENT_CHANGES if name not in (*TRAINING_CHANGES, "truncation")]
# Whose forward() leaves nothing to functions: what is no matter of shapes can be done.
MODULES_ALONE = ("flatten", "layers", "layers, relu", "wrapped")
SOME = (
    "digits",
    "flatten",
    "layers",
    "batch norms",
    "scaled residual",
    "autoencoder",
    "standardised",
    "dictionary",
    "pinn",
    "wrapped",
)


def loss_of(y):
    y = next(one for one in y.values() if one is not None) if isinstance(y, dict) else y
    return (y[-1] if isinstance(y, tuple) else y).square().sum()


def refusal(name, model, **options):
    """What a remedy is refused with, "" where it was applied."""
    try:
        gt.remedy(name).apply(model, **options)
    except ValueError as refused:
        return str(refused)
    return ""


@pytest.mark.filterwarnings("ignore:.*DataParallel.*deprecated")
@pytest.mark.parametrize("name", SOME)
def test_a_remedy_by_name_is_applied_or_leaves_the_module(name):
    build, shape = tutorial_modules.TAKEN[name]
    done = []
    for remedy in OF_STACKS:
        torch.manual_seed(0)
        model = build()
        before, was = state_of(model), copy.deepcopy(gt.from_torch(model))
        if refused := refusal(remedy, model):
            assert refused.startswith("module: "), remedy
            assert_untouched(model, before)
            continue
        done.append(remedy)
        loss_of(model(torch.randn(4, *shape))).backward()
        assert all(p.grad is not None for p in model.parameters()), remedy
        assert gt.from_torch(model) != was, remedy
    assert {"orthogonal", "layer_norm"} <= set(done)
    if name in MODULES_ALONE:
        assert {"tanh_orthogonal", "residual", "scaled_residual", "residual_layer_norm"} <= set(done)


@pytest.mark.parametrize("name", tutorial_recurrent_modules.TAKEN)
def test_remedies_of_recurrent_networks_likewise(name):
    done = []
    for remedy in OF_RECURRENT:
        torch.manual_seed(0)
        model = tutorial_recurrent_modules.TAKEN[name]()
        before, was = state_of(model), copy.deepcopy(gt.from_torch(model))
        if refused := refusal(remedy, model, steps=20):
            assert refused.startswith("module: "), remedy
            assert_untouched(model, before)
            continue
        done.append(remedy)
        assert gt.from_torch(model) != was, remedy
    kind = type(was).__name__
    assert {"orthogonal_recurrent", "smaller_recurrent"} <= set(done)
    assert (set(done) >= {"chrono", "forget_bias"}) == (kind == "LSTM")
    assert ("update_gate" in done) == (kind == "GRU")


@pytest.mark.parametrize("name", ["layers", "policy", "temperature", "wrapped"])
def test_a_tried_remedy_makes_the_module_its_network_whatever_stands_at_the_end(name):
    build, shape = tutorial_modules.TAKEN[name]
    torch.manual_seed(0)
    model = build()
    x = np.random.default_rng(0).standard_normal((16, *shape)).astype("float32")
    tried = gt.from_torch(model).remedies(x, only=["layer_norm", "zero_bias"], steps=1)
    for remedy in tried:
        changed = remedy.apply(copy.deepcopy(model))
        got, wanted = gt.from_torch(changed).forward(x), remedy.network.forward(x)
        assert np.abs(got - wanted).max() <= tolerance("remedies", "outputs") * np.abs(wanted).max()


def test_a_scaled_skip_connection_is_read_again():
    model = nn.Sequential(*[part for _ in range(4) for part in (nn.Linear(6, 6), nn.Tanh())], nn.Linear(6, 2))
    net = gt.from_torch(gt.remedy("scaled_residual").apply(model))
    assert net.residual == (0.5, 0.5, 0.5, 0.5, None)
    assert gt.from_torch(gt.to_torch(net)) == net


class Shared(nn.Module):
    """One activation for a layer that changes the width and for those that do not."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.layers, self.act = nn.ModuleList([nn.Linear(4, 6), nn.Linear(6, 6), nn.Linear(6, 6)]), nn.Tanh()
        self.norms = nn.ModuleList([nn.LayerNorm(6) for _ in range(3)])
        self.head = nn.Linear(6, 2)

    def forward(self, x):
        for layer, norm in zip(self.layers, self.norms, strict=True):
            x = self.act(norm(layer(x)))
        return self.head(x)


def test_an_activation_that_several_layers_share_moves_into_each():
    model, plain = gt.remedy("residual").apply(Shared()), gt.from_torch(Shared())
    net = gt.from_torch(model)
    assert net.residual == (None, 1.0, 1.0, None)
    x = np.random.default_rng(0).standard_normal((5, 4)).astype("float32")
    assert np.array_equal(net.forward(x), plain.replaced(residual=[None, 1.0, 1.0, None]).forward(x))


def test_what_is_computed_from_other_parameters_is_written_through_or_refused():
    model = nn.Sequential(parametrizations.weight_norm(nn.Linear(5, 8)), nn.ReLU(), nn.Linear(8, 2))
    before = model[0].weight.detach().clone()
    torch.manual_seed(0)
    gt.remedy("he_initialisation").apply(model)
    assert not torch.equal(model[0].weight, before)
    assert model[0].weight.std() > before.std()
    model = nn.Sequential(parametrizations.orthogonal(nn.Linear(5, 5)), nn.ReLU(), nn.Linear(5, 2))
    state = copy.deepcopy(model.state_dict())
    with pytest.raises(
        ValueError, match=r"module: its weight is parametrised \(Orthogonal\) and cannot take the values"
    ):
        gt.remedy("he_initialisation").apply(model)
    assert all(torch.equal(state[key], value) for key, value in model.state_dict().items())


@pytest.mark.filterwarnings("ignore:.*weight_norm.*deprecated")
def test_a_weight_that_a_hook_computes_is_refused():
    model = nn.Sequential(nn.utils.weight_norm(nn.Linear(5, 8)), nn.ReLU(), nn.Linear(8, 2))
    with pytest.raises(ValueError, match="module: its weight is computed by a hook; remove it first"):
        gt.remedy("he_initialisation").apply(model)


def test_a_function_that_stands_in_the_way_is_named_with_its_line():
    torch.manual_seed(0)
    with pytest.raises(
        ValueError, match=r"it applies relu as a function \(tutorial_modules.py:\d+\); see the remedy's code"
    ):
        gt.remedy("leaky_relu").apply(tutorial_modules.Digits())


class Branches(nn.Module):
    """Convolutions in an nn.Sequential, a transformer's layer, an LSTM: no network of ours."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        parts = [part for _ in range(3) for part in (nn.Conv1d(4, 4, 3, padding=1), nn.BatchNorm1d(4), nn.ReLU())]
        self.convolutions = nn.Sequential(nn.Conv1d(1, 4, 3), nn.ReLU(), *parts)
        self.encoder = nn.TransformerEncoderLayer(4, 2, 8, batch_first=True)
        self.lstm, self.head = nn.LSTM(4, 5, batch_first=True), nn.Linear(5, 2)

    def forward(self, x):
        h = self.encoder(self.convolutions(x).transpose(1, 2))
        return self.head(self.lstm(h)[0].mean(1))


@pytest.mark.parametrize("name", [*OF_STACKS, *OF_RECURRENT])
def test_remedies_reach_the_parts_of_a_model_that_is_no_network_of_ours(name):
    model, x = Branches(), torch.randn(3, 1, 12)
    before, was = state_of(model), {key: value.clone() for key, value in model.state_dict().items()}
    if refused := refusal(name, model):
        assert refused.startswith("module: ")
        assert name in ("linear_output", "update_gate", "lstm", "identity_relu", "zero_bias", "relu_he")
        assert_untouched(model, before)
        return
    after = {key: value.clone() for key, value in model.state_dict().items()}
    model(x).square().sum().backward()
    assert all(p.grad is not None for p in model.parameters())
    model.eval()(x)
    skips = [part for part in model.modules() if type(part).__name__ == "Skip"]
    if "residual" in name:
        assert len(skips) == 3
        assert all(part.scale == (3**-0.5 if name == "scaled_residual" else 1) for part in skips)
    changed = any(key not in was or not torch.equal(was[key], value) for key, value in after.items())
    assert changed or name == "leaky_relu"
    touched = {key for key in was if key in after and not torch.equal(was[key], after[key])}
    if name in OF_RECURRENT:
        assert touched
        assert all(key.startswith("lstm.") for key in touched)
