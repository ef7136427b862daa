"""A Trainer of Hugging Face's that trains a small model with the callback, reporting to TensorBoard's files."""

import contextlib

import pytest
from offline_runs import read_offline
from tolerances import tolerance

import gradtrace as gt

torch = pytest.importorskip("torch")
BITS = tolerance("torch", "log2")
pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::UserWarning"),
]


@pytest.fixture
def library(monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    pytest.importorskip("accelerate")
    return pytest.importorskip("transformers")


class Rows(torch.utils.data.Dataset):
    """Tokens whose parity is the label."""

    def __len__(self):
        return 64

    def __getitem__(self, index):
        if index == getattr(self, "fails_at", None):
            raise ArithmeticError("of the data")
        return {"input_ids": torch.tensor([index % 7, 3, index % 5, 1]), "labels": torch.tensor(index % 2)}


def model_of(library):
    torch.manual_seed(0)
    sizes = {"vocab_size": 11, "hidden_size": 16, "num_attention_heads": 2, "intermediate_size": 32}
    config = library.BertConfig(num_hidden_layers=4, max_position_embeddings=8, hidden_dropout_prob=0.0,
                                attention_probs_dropout_prob=0.0, **sizes)  # fmt: skip
    return library.BertForSequenceClassification(config)


def trainer_of(library, tmp_path, callbacks, data=None, report_to="tensorboard", **options):
    options = {
        "per_device_train_batch_size": 8, "max_steps": 8, "logging_steps": 2, "save_strategy": "no", "use_cpu": True,
        "disable_tqdm": True, "learning_rate": 1e-2, "seed": 0, "report_to": report_to, "output_dir": str(tmp_path / "out"),
    } | options  # fmt: skip
    return library.Trainer(
        model_of(library),
        library.TrainingArguments(**options),
        train_dataset=data or Rows(),
        eval_dataset=Rows(),
        callbacks=callbacks,
    )


@pytest.fixture
def scalars(tmp_path, monkeypatch):
    monkeypatch.setenv("TENSORBOARD_LOGGING_DIR", str(tmp_path / "runs"))
    events = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")

    def read():
        (folder,) = {path.parent for path in tmp_path.rglob("events.out.tfevents*")}
        assert len(list(folder.iterdir())) == 1  # no second file, whose steps TensorBoard would not read
        accumulator = events.EventAccumulator(str(folder)).Reload()
        return {
            tag: [(one.step, one.value) for one in accumulator.Scalars(tag)] for tag in accumulator.Tags()["scalars"]
        }

    return read


def hooks(model):
    return sum(len(part._forward_hooks) + len(part._forward_pre_hooks) for part in model.modules())


def test_figures_go_where_the_trainer_reports(library, tmp_path, scalars, capsys):
    callback = gt.integrations.TrainerCallback()
    assert isinstance(callback, library.TrainerCallback)
    trainer = trainer_of(library, tmp_path, [callback])
    trainer.train()
    read = scalars()
    ours = {tag: rows for tag, rows in read.items() if "gradtrace" in tag}
    assert len(ours) == 12
    assert all([step for step, _ in rows] == [1, 3, 5, 7] for rows in ours.values())
    assert [step for step, _ in read["train/loss"]] == [2, 4, 6, 8]
    assert not any("gradtrace" in key for row in trainer.state.log_history for key in row)
    assert callback.watched.every == 2
    trace = callback.watched.trace()
    head = next(row for row in trace.modules if row.name == "classifier")
    got = ours["train/gradtrace/classifier/log2_grad_weight"][-1][1]
    assert got == pytest.approx(head.log2_grad_weight, abs=tolerance("torch", "log2", "float32"))
    assert hooks(trainer.model) == 0
    assert "gradtrace" not in "".join(capsys.readouterr())


def test_half_precision_and_evaluations(library, tmp_path, scalars):
    """What autocast makes of the outputs is not what the loss used, so that the gradient at them is not there."""
    callback = gt.integrations.TrainerCallback(every=2)
    trainer_of(library, tmp_path, [callback], bf16=True, eval_strategy="steps", eval_steps=2).train()
    read = scalars()
    ours = {tag: rows for tag, rows in read.items() if "gradtrace" in tag}
    assert len(ours) == 11
    assert "train/gradtrace/log2_cotangent" not in ours
    assert all([step for step, _ in rows] == [1, 3, 5, 7] for rows in ours.values())
    assert [step for step, _ in read["eval/loss"]] == [2, 4, 6, 8]


def test_all_reporters_get_them(library, tmp_path, monkeypatch):
    mlflow, wandb = pytest.importorskip("mlflow"), pytest.importorskip("wandb")
    environment = {"WANDB_MODE": "offline", "WANDB_SILENT": "true", "WANDB_CONSOLE": "off", "WANDB_DIR": tmp_path}
    environment |= {"MLFLOW_DISABLE_TELEMETRY": "true", "MLFLOW_TRACKING_URI": f"sqlite:///{tmp_path / 'store.db'}"}
    for name, value in environment.items():
        monkeypatch.setenv(name, str(value))
    before = mlflow.get_tracking_uri()
    mlflow.set_tracking_uri(environment["MLFLOW_TRACKING_URI"])
    try:
        trainer = trainer_of(library, tmp_path, [gt.integrations.TrainerCallback()], report_to=["wandb", "mlflow"])
        trainer.train()
        wandb.finish()
        wandb.teardown()  # waits until the file is whole
        rows, _ = read_offline(tmp_path)
        ours = [row for row in rows if "train/gradtrace/zeros" in row]
        assert [row["train/global_step"] for row in ours] == [1, 3, 5, 7]
        assert [row["train/global_step"] for row in rows if "train/loss" in row] == [2, 4, 6, 8]
        client = mlflow.MlflowClient()
        (run,) = client.search_runs([one.experiment_id for one in client.search_experiments()])
        for key in (key for key in ours[0] if "gradtrace" in key):
            history = client.get_metric_history(run.info.run_id, key.removeprefix("train/"))
            assert [(one.step, one.value) for one in history] == [(row["train/global_step"], row[key]) for row in ours]
    finally:
        mlflow.set_tracking_uri(before)
        wandb.teardown()


def test_accumulation_and_checkpointing(library, tmp_path, scalars):
    """Of micro-batches the last recorded one counts; checkpointed modules have their gradients."""
    callback = gt.integrations.TrainerCallback(every=1)
    options = {"gradient_accumulation_steps": 4, "per_device_train_batch_size": 4, "gradient_checkpointing": True}
    trainer_of(library, tmp_path, [callback], **options).train()
    ours = {tag: rows for tag, rows in scalars().items() if "gradtrace" in tag}
    assert len(ours) == 12
    assert all([step for step, _ in rows] == list(range(1, 9)) for rows in ours.values())
    assert callback.watched.trace().step == 31


def test_a_compiled_model_has_the_figures_of_the_model_as_it_is(library, tmp_path):
    import torch._dynamo

    steps, options = [], {"torch_compile": True, "torch_compile_backend": "eager"}
    with torch._dynamo.config.patch(fail_on_recompile_limit_hit=True):
        for compiled in (False, True):
            callback = gt.integrations.TrainerCallback(every=1)
            trainer_of(library, tmp_path, [callback], report_to="none", **(options if compiled else {})).train()
            steps.append(callback.watched.trace())
    assert steps[0].names == steps[1].names
    for name in ("log2_grad_output", "log2_grad_weight"):
        first, second = (trace.figures(name) for trace in steps)
        assert first == pytest.approx(second, abs=tolerance("torch", "log2", "float32"), nan_ok=True)


def test_the_watch_ends_with_an_exception_or_the_next_training(library, tmp_path):
    data = Rows()
    data.fails_at = 17
    callback = gt.integrations.TrainerCallback(every=1)
    trainer = trainer_of(library, tmp_path, [callback], data=data, report_to="none", max_steps=16)
    with contextlib.closing(callback), pytest.raises(ArithmeticError):
        trainer.train()
    assert hooks(trainer.model) == 0
    with pytest.raises(ArithmeticError):
        trainer.train()
    first = callback.watched
    assert hooks(trainer.model) > 0
    del data.fails_at
    trainer.train()
    assert callback.watched is not first
    assert hooks(trainer.model) == 0


def test_the_class_itself_is_a_callback_too(library, tmp_path, scalars):
    trainer = trainer_of(library, tmp_path, [gt.integrations.TrainerCallback])
    trainer.train()
    assert any("gradtrace" in tag for tag in scalars())


def test_an_argument_that_is_wrong_ends_the_training_before_it_begins(library, tmp_path):
    with pytest.raises(ValueError, match="every: expected at least 1"):
        gt.integrations.TrainerCallback(every=0)
    callback = gt.integrations.TrainerCallback(figures=["delta"])
    trainer = trainer_of(library, tmp_path, [callback], report_to="none")
    with pytest.raises(ValueError, match="figures: expected one of"):
        trainer.train()
    assert hooks(trainer.model) == 0
