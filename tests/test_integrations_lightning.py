"""A trainer of Lightning's that fits a small model with the callback, by both names of the library."""

import copy
import csv
import pickle
import signal

import pytest
from tolerances import tolerance

import gradtrace as gt

torch = pytest.importorskip("torch")
BITS = tolerance("torch", "log2")
pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::UserWarning"),  # of few workers, of a small log_every_n_steps
]


@pytest.fixture(params=["lightning.pytorch", "pytorch_lightning"])
def library(request):
    return pytest.importorskip(request.param)


def module(library, error=None, manual=False):
    class Small(library.LightningModule):
        def __init__(self):
            super().__init__()
            torch.manual_seed(0)
            hidden = [part for _ in range(5) for part in (torch.nn.Linear(8, 8), torch.nn.Tanh())]
            self.body, self.head = torch.nn.Sequential(*hidden), torch.nn.Linear(8, 1)
            self.automatic_optimization = not manual
            self.losses = []

        def training_step(self, batch, index):
            if error is not None and index == 3:
                raise error("of the step")
            (x,) = batch
            loss = (self.head(self.body(x)) - x.sum(dim=1, keepdim=True)).square().mean()
            self.losses.append(loss.item())
            self.log("loss", loss)
            if manual:
                for optimizer in self.optimizers():
                    optimizer.zero_grad()
                    self.manual_backward((self.head(self.body(x)) - 1).square().mean())
                    optimizer.step()
                return None
            return loss

        def validation_step(self, batch, index):
            self.log("validation", self.head(self.body(batch[0])).mean())

        def configure_optimizers(self):
            if manual:
                return [torch.optim.SGD(part.parameters(), lr=0.01) for part in (self.body, self.head)]
            return torch.optim.SGD(self.parameters(), lr=0.1)

    return Small()


def fit(library, tmp_path, callback, model, batches=8, **options):
    torch.manual_seed(1)
    data = torch.utils.data.TensorDataset(torch.randn(16 * batches, 8))
    loader = torch.utils.data.DataLoader(data, batch_size=16)
    logger = library.loggers.CSVLogger(tmp_path)
    quiet = dict.fromkeys(("enable_progress_bar", "enable_model_summary", "enable_checkpointing"), False)
    options = {"max_epochs": 2, "log_every_n_steps": 2, "accelerator": "cpu"} | quiet | options
    trainer = library.Trainer(logger=logger, callbacks=[callback], **options)
    try:
        trainer.fit(model, loader, loader)
    finally:
        logger.save()
    return trainer, rows_of(logger)


def rows_of(logger):
    with open(f"{logger.log_dir}/metrics.csv", newline="") as file:
        rows = [{key: float(value) for key, value in row.items() if value} for row in csv.DictReader(file)]
    return [row for row in rows if "gradtrace/zeros" in row]


def hooks(model):
    return sum(len(part._forward_hooks) + len(part._forward_pre_hooks) for part in model.modules())


def test_figures_stand_beside_the_trainers_own(library, tmp_path, capsys):
    callback, model = gt.integrations.LightningCallback(), module(library)
    assert isinstance(callback, library.Callback)
    assert callback.watched is None
    _, rows = fit(library, tmp_path, callback, model)
    assert model.losses[-1] < model.losses[0]  # it trains
    # Steps 0, 2, ... of the watch are recorded, and each logged behind the trainer's step it belongs to.
    assert [row["step"] for row in rows] == list(range(1, 17, 2))
    keys = {key for row in rows for key in row if key.startswith("gradtrace/")}
    assert len(keys) == 12
    assert {"gradtrace/body.0/log2_grad_output", "gradtrace/head/log2_grad_weight"} <= keys
    trace = callback.watched.trace()
    assert trace.step == 14
    head = next(row for row in trace.modules if row.name == "head")
    assert rows[-1]["gradtrace/head/log2_grad_weight"] == pytest.approx(head.log2_grad_weight, abs=BITS)
    assert hooks(model) == 0
    assert "gradtrace" not in "".join(capsys.readouterr())


@pytest.mark.parametrize("error", [ArithmeticError, KeyboardInterrupt])
def test_the_watch_ends_with_an_exception(library, tmp_path, error):
    callback, model = gt.integrations.LightningCallback(every=1), module(library, error)
    handler = signal.getsignal(signal.SIGINT)  # Lightning sets it aside for good
    try:
        with pytest.raises(ArithmeticError if error is ArithmeticError else SystemExit):
            fit(library, tmp_path, callback, model)
    finally:
        signal.signal(signal.SIGINT, handler)
    assert hooks(model) == 0
    assert callback.watched.trace().step == 2


def test_gradient_accumulation_gives_a_row_for_each_of_the_trainers_steps(library, tmp_path):
    callback = gt.integrations.LightningCallback(every=1)
    trainer, rows = fit(library, tmp_path, callback, module(library), accumulate_grad_batches=4)
    assert trainer.global_step == 4
    assert [row["step"] for row in rows] == [1, 2, 3, 4]
    by_default = gt.integrations.LightningCallback()
    fit(library, tmp_path, by_default, module(library), accumulate_grad_batches=4)
    assert by_default.watched.every == 8


def test_mixed_precision_gives_the_figures_of_full_precision_nearly(library, tmp_path):
    rows = {}
    for precision in ("32-true", "bf16-mixed"):
        callback = gt.integrations.LightningCallback(every=1)
        _, rows[precision] = fit(library, tmp_path, callback, module(library), precision=precision, max_epochs=1)
    for one, other in zip(*rows.values(), strict=True):
        assert one.keys() == other.keys()
        for key, value in one.items():
            assert value == pytest.approx(other[key], abs=tolerance("autocast", "log2")), key


def test_several_optimisers_by_hand(library, tmp_path):
    callback = gt.integrations.LightningCallback(every=1)
    trainer, rows = fit(library, tmp_path, callback, module(library, manual=True), max_epochs=1)
    assert trainer.global_step == 16  # Lightning counts each optimiser's
    assert [row["step"] for row in rows] == list(range(2, 17, 2))
    assert hooks(trainer.lightning_module) == 0


def test_a_trainer_without_loggers_and_options_of_the_watch(library, tmp_path):
    callback = gt.integrations.LightningCallback(
        every=3, only=["body"], prefix="g", modules=["body.0"], figures=["log2_output"]
    )
    _, rows = fit(library, tmp_path, callback, module(library), max_epochs=1)
    assert rows == []
    trainer = library.Trainer(logger=False, callbacks=[callback], max_steps=2, enable_progress_bar=False,
                              enable_model_summary=False, enable_checkpointing=False, accelerator="cpu")  # fmt: skip
    trainer.fit(module(library), torch.utils.data.DataLoader(torch.utils.data.TensorDataset(torch.randn(32, 8)), 16))
    assert [row.name for row in callback.watched.trace().modules] == [
        *(f"body.{number}" for number in range(10)),
        "body",
    ]


def test_it_is_copied_and_pickled_without_its_watch(library, tmp_path):
    callback = gt.integrations.LightningCallback(every=3, modules=["head"], figures=["gain"])
    fit(library, tmp_path, callback, module(library), max_epochs=1)
    for twin in (copy.deepcopy(callback), pickle.loads(pickle.dumps(callback))):
        assert twin.watched is None
        fit(library, tmp_path, twin, module(library), max_epochs=1)
        assert twin.watched.every == 3
