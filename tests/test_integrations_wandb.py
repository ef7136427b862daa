"""Figures of a watch in a run of W&B, offline; its file is read back with W&B's own messages."""

import pytest
from offline_runs import read_offline

import gradtrace as gt

torch = pytest.importorskip("torch")
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")


@pytest.fixture
def offline(tmp_path, monkeypatch):
    wandb = pytest.importorskip("wandb")
    for name in ("WANDB_DIR", "WANDB_CONFIG_DIR", "WANDB_CACHE_DIR", "WANDB_DATA_DIR"):
        monkeypatch.setenv(name, str(tmp_path))
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    monkeypatch.setenv("WANDB_CONSOLE", "off")
    yield wandb
    wandb.teardown()


def train(watched, model, steps, behind):
    rows = []
    watched.log_to(lambda figures, step: rows.append((step, figures)))
    for number in range(steps):
        model.zero_grad()
        loss = model(torch.randn(16, 8)).square().mean()
        loss.backward()
        behind(number, loss.item())
    return rows


def layers():
    torch.manual_seed(0)
    hidden = [part for _ in range(6) for part in (torch.nn.Linear(8, 8), torch.nn.Tanh())]
    return torch.nn.Sequential(*hidden, torch.nn.Linear(8, 1))


@pytest.mark.parametrize("as_module", [True, False])
@pytest.mark.parametrize("explicit", [True, False])
def test_figures_stand_in_the_rows_of_the_users_own_steps(offline, tmp_path, as_module, explicit):
    model = layers()
    run = offline.init(project="p", dir=tmp_path)
    with gt.watch(model) as watched:
        writer = offline if as_module else run
        watched.log_to(writer)

        def behind(number, loss):
            watched.log_to(writer)
            run.log({"loss": loss}, **({"step": 10 * number} if explicit else {}))

        rows = train(watched, model, 5, behind)
    run.log({"end": 1.0})
    run.finish()
    offline.teardown()  # waits until the file is whole
    got, metrics = read_offline(tmp_path)
    with_loss = [row for row in got if "loss" in row]
    assert [row["_step"] for row in with_loss] == [10 * number if explicit else number for number in range(5)]
    with_figures = [row for row in got if "gradtrace/step" in row]
    # With a step of the caller's own W&B keeps his row open until his next one, so that of the first two steps the
    # second stays.
    assert [row["gradtrace/step"] for row in with_figures] == [0, 1, 2, 3, 4][explicit:]
    for (_, figures), row in zip(rows[explicit:], with_figures, strict=True):
        assert figures.items() <= row.items()
        assert len(figures) == 12
    if not explicit:
        assert with_figures == with_loss
    assert metrics["gradtrace/*"] == "gradtrace/step"


def test_steps_of_the_user_that_are_fewer_are_not_lost(offline, tmp_path):
    """Eight micro-batches to a step of his: figures must not move W&B's counter beyond it, or it drops his row."""
    model = layers()
    run = offline.init(project="p", dir=tmp_path)
    with gt.watch(model) as watched:
        watched.log_to(run)
        train(
            watched, model, 24, lambda number, loss: run.log({"loss": loss}, step=number // 8) if number % 8 == 7 else 0
        )
    run.finish()
    offline.teardown()
    rows, _ = read_offline(tmp_path)
    assert [row["_step"] for row in rows if "loss" in row] == [0, 1, 2]
    steps = [row["gradtrace/step"] for row in rows if "gradtrace/step" in row]
    assert steps == sorted(steps)
    assert steps[-1] == 23


def test_a_run_that_was_finished_too_early_ends_no_training(offline, tmp_path):
    model = layers()
    run = offline.init(project="p", dir=tmp_path)
    with gt.watch(model) as watched:
        watched.log_to(run)
        with pytest.warns(RuntimeWarning, match="log_to: Run failed at step 1"):
            rows = train(watched, model, 4, lambda number, loss: run.finish() if number == 1 else None)
    assert len(rows) == 4


def test_without_a_run_that_is_open(offline):
    model = layers()
    with (
        gt.watch(model) as watched,
        pytest.raises(ValueError, match=r"writer: expected a W&B run that is open, got none"),
    ):
        watched.log_to(offline)
