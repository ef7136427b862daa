"""A remedy on a PyTorch module: afterwards it computes what the remedy's network computes, or it is as it was."""

import copy

import numpy as np
import pytest
from tolerances import tolerance

import gradtrace as gt

torch = pytest.importorskip("torch")
nn = torch.nn

X = np.random.default_rng(0).standard_normal((32, 6)).astype("float32")
LABELS = X[:, :3].argmax(axis=1)
STEPS = np.random.default_rng(0).standard_normal((9, 16, 3)).astype("float32")


def chain(activation=nn.Sigmoid, end=()):
    torch.manual_seed(0)
    layers = [part for inputs in (6, 8, 8) for part in (nn.Linear(inputs, 8), activation())]
    return nn.Sequential(*layers, nn.Linear(8, 3), *end)


class Functional(nn.Module):
    """An activation that is no module."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.below, self.above = nn.Linear(6, 8), nn.Linear(8, 3)

    def forward(self, x):
        return self.above(torch.tanh(self.below(x)))


def near(got, wanted):
    assert np.allclose(got.detach().numpy(), wanted, atol=tolerance("remedies", "outputs"))


@pytest.mark.parametrize(
    "model", [chain(), chain(nn.ReLU), chain(nn.Tanh, (nn.ReLU(),))], ids=["sigmoid", "relu", "end"]
)
def test_a_module_becomes_the_network_of_the_remedy(model):
    tried = gt.from_torch(model).remedies(X, LABELS, "cross_entropy", steps=1)
    assert len(tried) > 6
    for remedy in tried:
        module = copy.deepcopy(model)
        assert remedy.apply(module) is module
        near(module(torch.tensor(X)), remedy.network.forward(X))
        assert all(p.grad is not None for p in gradients(module)), remedy.name
    if len(model) == 8:
        assert isinstance(tried.find("linear_output").apply(copy.deepcopy(model))[-1], nn.Identity)


def gradients(module):
    module(torch.tensor(X)).square().sum().backward()
    return module.parameters()


def test_skip_connections_are_read_again_and_saved(tmp_path):
    tried = gt.from_torch(chain()).remedies(X, LABELS, "cross_entropy", only=["residual"], steps=1)
    module = tried.find("residual").apply(chain())
    assert gt.from_torch(module).residual == (None, 1.0, 1.0, None)
    torch.save(module, tmp_path / "m.pt")
    near(torch.load(tmp_path / "m.pt", weights_only=False)(torch.tensor(X)), module(torch.tensor(X)).detach().numpy())


@pytest.mark.parametrize("cell", [nn.LSTM, nn.GRU, nn.RNN])
def test_recurrent_modules_likewise(cell):
    torch.manual_seed(0)
    model = nn.ModuleDict({"cell": cell(3, 5, num_layers=2)})
    tried = gt.from_torch(model["cell"]).remedies(STEPS, steps=1)
    for remedy in tried:
        module = copy.deepcopy(model)
        remedy.apply(module)
        near(module["cell"](torch.tensor(STEPS))[0], remedy.network.forward(STEPS)[0])
    if cell is nn.RNN:
        with pytest.raises(ValueError, match="module: expected one that holds the RNN"):
            tried.find("lstm").apply(copy.deepcopy(model["cell"]))


def test_what_cannot_be_changed_from_outside_is_refused_and_stays():
    model = Functional()
    tried = gt.from_torch(model).remedies(X, LABELS, "cross_entropy", only=["relu_he", "layer_norm"], steps=1)
    before = model(torch.tensor(X)).detach().numpy()
    with pytest.raises(ValueError, match=r"module: its forward\(\) does what cannot be changed from outside"):
        tried.find("relu_he").apply(model)
    near(model(torch.tensor(X)), before)
    near(tried.find("layer_norm").apply(model)(torch.tensor(X)), tried.find("layer_norm").network.forward(X))
    with pytest.raises(ValueError, match="module: expected linear layers of shapes"):
        tried.find("relu_he").apply(nn.Sequential(nn.Linear(6, 9), nn.Tanh(), nn.Linear(9, 3)))
    with pytest.raises(TypeError, match=r"module: expected a torch.nn.Module, got list"):
        tried.find("relu_he").apply([model])


def test_remedies_by_name_for_modules_of_any_kind():
    convolutional = nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(16, 2)
    )
    image = torch.randn(2, 1, 6, 6)
    gt.remedy("zero_bias").apply(convolutional)
    assert not convolutional[0].bias.any()
    gt.remedy("he_initialisation").apply(convolutional)
    gt.remedy("leaky_relu").apply(convolutional)
    assert isinstance(convolutional[1], nn.LeakyReLU)
    gt.remedy("layer_norm").apply(convolutional)
    assert isinstance(convolutional[0][1], nn.GroupNorm)
    assert isinstance(convolutional[5], nn.Linear)
    assert convolutional(image).shape == (2, 2)
    with pytest.raises(ValueError, match=r"module: residual takes a change of its forward\(\)"):
        gt.remedy("residual").apply(convolutional)
    lstm = nn.LSTM(3, 400)
    gt.remedy("chrono").apply(lstm, steps=50)
    forget = (lstm.bias_ih_l0 + lstm.bias_hh_l0)[400:800].detach().numpy()
    assert 0 <= forget.min() < 1 < 3.5 < forget.max() <= np.log(49)
    assert gt.remedy("tanh_orthogonal").apply(chain())[1].__class__ is nn.Tanh
    with pytest.raises(ValueError, match=r"name: expected one of relu_he, .*, got 'magic'"):
        gt.remedy("magic")
    with pytest.raises(TypeError, match="name: expected one of"):
        gt.remedy(3)


def test_what_changes_the_data_leaves_the_module():
    model = chain()
    before = copy.deepcopy(model.state_dict())
    for name in ("standardised_inputs", "scaled_targets", "gradient_clipping", "smaller_rate"):
        remedy = gt.remedy(name)
        assert remedy.apply(model) is model
        assert remedy.code
        compile(remedy.code, name, "exec")
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())


def test_the_lines_are_those_of_the_network_at_hand():
    tried = gt.from_torch(chain()).remedies(X, LABELS, "cross_entropy", only=["tanh_orthogonal", "layer_norm"], steps=1)
    assert "in the place of nn.Sigmoid()" in tried.find("tanh_orthogonal").code
    assert "nn.LayerNorm(8)" in tried.find("layer_norm").code
    for remedy in tried:
        compile(remedy.code, remedy.name, "exec")
