"""Figures of a watch in MLflow's own store, a file of SQLite, read back by its client."""

import pytest

import gradtrace as gt

torch = pytest.importorskip("torch")
pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::UserWarning"),
]


@pytest.fixture
def store(tmp_path, monkeypatch):
    monkeypatch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")
    mlflow = pytest.importorskip("mlflow")
    monkeypatch.chdir(tmp_path)
    before = mlflow.get_tracking_uri()
    mlflow.set_tracking_uri(f"sqlite:///{tmp_path / 'store.db'}")
    yield mlflow
    mlflow.set_tracking_uri(before)


def train(writer):
    torch.manual_seed(0)
    layers = [part for _ in range(40) for part in (torch.nn.Linear(8, 8), torch.nn.Sigmoid())]
    model, rows = torch.nn.Sequential(*layers, torch.nn.Linear(8, 2)), []
    with torch.no_grad():
        for module in model[:40:2]:
            module.weight.mul_(1e-3)
    with gt.watch(model) as watched:
        watched.log_to(writer)
        watched.log_to(lambda figures, step: rows.append((step, figures)))
        for _ in range(3):
            model.zero_grad()
            model(torch.randn(16, 8)).square().mean().backward()
    return rows


def check(client, run_id, rows):
    keys = client.get_run(run_id).data.metrics
    assert set(keys) == set(rows[0][1])
    for key in keys:
        got = sorted((one.step, one.value) for one in client.get_metric_history(run_id, key))
        assert got == [(step, figures[key]) for step, figures in rows]
    assert keys["gradtrace/0/log2_grad_output"] == -150.0  # vanished, and seen


def test_the_module_logs_to_the_active_run(store):
    with store.start_run() as run:
        rows = train(store)
    check(store.MlflowClient(), run.info.run_id, rows)


@pytest.mark.parametrize("by_id", [True, False])
def test_a_client_logs_to_a_run_that_is_not_active(store, by_id):
    client = store.MlflowClient()
    run = client.create_run(client.create_experiment("e"))
    rows = train((client, run.info.run_id if by_id else run))
    check(client, run.info.run_id, rows)
    assert store.active_run() is None
