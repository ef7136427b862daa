"""A remedy on a PyTorch module: afterwards it computes what the remedy's network computes, or it is as it was."""

import copy
import math

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


def state_of(module):
    names = [*module.named_parameters(remove_duplicate=False), *module.named_buffers()]
    parts = [(name, id(part), part.training) for name, part in module.named_modules()]
    return parts, {name: (id(value), value.detach().clone()) for name, value in names}


def assert_untouched(module, before):
    parts, values = state_of(module)
    assert parts == before[0]
    assert values.keys() == before[1].keys()
    for name, (identity, value) in values.items():
        assert identity == before[1][name][0], name
        assert torch.equal(value, before[1][name][1]), name


def test_after_a_refusal_an_optimiser_still_trains_the_module():
    model = Functional()
    model.above.eval()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    tried = gt.from_torch(model).remedies(X, LABELS, "cross_entropy", only=["relu_he"], steps=1)
    before = state_of(model)
    with pytest.raises(ValueError, match=r"module: its forward\(\)"):
        tried.find("relu_he").apply(model)
    assert_untouched(model, before)
    gradients(model)
    optimizer.step()
    assert not torch.equal(model.above.weight, before[1]["above.weight"][1])


def test_parts_keep_their_own_mode():
    model = chain()
    model[2].eval()
    modes = [part.training for part in model]
    gt.remedy("layer_norm").apply(model)
    assert [part.training for part in model] == modes
    assert not model[2][0].training


class Head(nn.Module):
    """Reads the last state of a plain RNN, or its outputs."""

    def __init__(self, read, inputs=None):
        super().__init__()
        torch.manual_seed(0)
        self.cell, self.head = nn.RNN(3, 5), nn.Linear(5, 2)
        self.read, self.inputs = read, inputs or (lambda x: x)

    def forward(self, x):
        return self.head(self.read(*self.cell(self.inputs(x))))


def test_another_kind_of_cell_must_fit_the_forward_around_it():
    tried = gt.from_torch(Head(None).cell).remedies(STEPS, only=["lstm"], steps=1).find("lstm")
    fits = tried.apply(Head(lambda out, state: out[-1]))
    assert isinstance(fits.cell, nn.LSTM)
    assert fits(torch.tensor(STEPS)).shape == (16, 2)
    cases = [
        (Head(lambda out, state: state[-1]), r"forward\(\) gives outputs of other shapes"),
        (Head(lambda out, state: state.squeeze(0)), r"forward\(\) gives outputs of other shapes"),
        (Head(lambda out, state: out[-1], lambda x: x["steps"]), r"forward\(\) takes other inputs"),
    ]
    for model, reason in cases:
        before = state_of(model)
        with pytest.raises(ValueError, match=f"module: its {reason}"):
            tried.apply(model)
        assert_untouched(model, before)
        assert all(one is getattr(model.cell, name) for name, one in model.cell.named_parameters())


class Broken(nn.Module):
    """Two convolutions of which the second cannot be followed by a norm."""

    def __init__(self):
        super().__init__()
        self.first, self.second, self.last = nn.Conv2d(1, 4, 3), nn.Conv2d(4, 4, 3), nn.Conv2d(4, 1, 1)
        del self.second.out_channels


def test_a_block_used_twice_is_changed_once_and_a_failure_changes_nothing():
    block = nn.Sequential(nn.Conv2d(2, 2, 1), nn.ReLU())
    model = nn.Sequential(block, block, nn.Flatten(), nn.Linear(18, 2))
    gt.remedy("layer_norm").apply(model)
    assert [type(part) for part in block[0]] == [nn.Conv2d, nn.GroupNorm]
    assert gt.remedy("leaky_relu").apply(model)(torch.randn(4, 2, 3, 3)).shape == (4, 2)
    broken = Broken()
    before = state_of(broken)
    with pytest.raises(AttributeError, match="out_channels"):
        gt.remedy("layer_norm").apply(broken)
    assert_untouched(broken, before)


@pytest.mark.parametrize("name", ["layer_norm", "residual"])
def test_a_layer_used_twice_gets_no_norm_or_skip_connection_of_each_use(name):
    block = nn.Sequential(nn.Linear(4, 4), nn.ReLU())
    model = nn.Sequential(block, block, nn.Linear(4, 2))
    before = state_of(model)
    with pytest.raises(ValueError, match="module: expected a block for each layer, got one that is used twice"):
        gt.remedy(name).apply(model)
    assert_untouched(model, before)
    assert isinstance(gt.remedy("leaky_relu").apply(model)[0][1], nn.LeakyReLU)


@pytest.mark.parametrize("name", ["leaky_relu", "zero_bias", "he_initialisation", "layer_norm"])
def test_nothing_to_change_is_refused(name):
    model = nn.Sequential(nn.Flatten(), nn.Tanh())
    if name != "he_initialisation":
        model.append(nn.Conv1d(1, 1, 1))
        nn.init.zeros_(model[2].bias)
    with pytest.raises(ValueError, match=f"module: expected one that {name} changes"):
        gt.remedy(name).apply(model)


def test_nothing_to_change_in_a_network_is_refused():
    for name, model in [("leaky_relu", chain()), ("chrono", nn.GRU(3, 4)), ("tanh_orthogonal", chain(nn.Tanh))]:
        with pytest.raises(ValueError, match=f"module: expected one that {name} changes"):
            gt.remedy(name).apply(model)


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


@pytest.mark.parametrize(("name", "kind"), [("forget_bias", nn.LSTM), ("update_gate", nn.GRU)])
def test_the_lines_of_a_remedy_by_name_do_what_it_does_for_any_number_of_steps(name, kind):
    applied, written = kind(3, 5), kind(3, 5)
    written.load_state_dict(applied.state_dict())
    gt.remedy(name).apply(applied, steps=40)
    exec(gt.remedy(name).code, {"model": written, "nn": nn, "steps": 40, "math": math})
    carried = [(one.bias_ih_l0 + one.bias_hh_l0)[5:10].detach().numpy() for one in (applied, written)]
    np.testing.assert_allclose(*carried, rtol=tolerance("remedies", "lines"))
    assert "steps - 2" in gt.remedy("chrono").code


def test_the_lines_are_those_of_the_network_at_hand():
    tried = gt.from_torch(chain()).remedies(X, LABELS, "cross_entropy", only=["tanh_orthogonal", "layer_norm"], steps=1)
    assert "in the place of nn.Sigmoid()" in tried.find("tanh_orthogonal").code
    assert "nn.LayerNorm(8)" in tried.find("layer_norm").code
    for remedy in tried:
        compile(remedy.code, remedy.name, "exec")
