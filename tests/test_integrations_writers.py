"""Writers of a watch: known by what they can do, let go at its end, and refused by name."""

import gc
import subprocess
import sys
import weakref

import pytest
from tolerances import tolerance

import gradtrace as gt

torch = pytest.importorskip("torch")
from logged_models import Recorder, layers, train  # noqa: E402

nn = torch.nn
BITS = tolerance("torch", "log2")


# Writers by what they can do ------------------------------------------------------------------------------------------


class Board:
    def __init__(self):
        self.rows = []

    def add_scalar(self, tag, scalar_value, global_step=None):
        self.rows.append((tag, scalar_value, global_step))


class Metrics:
    def __init__(self):
        self.rows = []

    def log_metrics(self, metrics, step=None):
        self.rows.append((metrics, step))


class Run:
    def __init__(self):
        self.rows, self.defined = [], []

    def define_metric(self, name, step_metric=None, hidden=None):
        self.defined.append((name, step_metric))

    def log(self, data, step=None, commit=None):
        assert step is None  # the user's own counter
        assert commit is False
        self.rows.append(data)


def test_writers_are_known_by_what_they_can_do():
    model, board, metrics, run, call = layers(), Board(), Metrics(), Run(), Recorder()
    model.add_module("a b(1)é", nn.Linear(1, 1))
    with gt.watch(model) as watched:
        for writer in (board, metrics, run, call):
            watched.log_to(writer)
        train(model, 2)
    figures = call.rows[1][1]
    assert {tag: value for tag, value, step in board.rows if step == 1} == figures
    assert [step for _, step in metrics.rows] == [0, 1]
    assert list(metrics.rows[1][0].values()) == list(figures.values())
    assert "gradtrace/a b_1__/log2_grad_output" in metrics.rows[1][0]
    assert run.rows[1] == figures | {"gradtrace/step": 1}
    assert run.defined == [("gradtrace/step", None), ("gradtrace/*", "gradtrace/step")]


def test_a_writer_that_fails_is_told_of_once_and_training_goes_on():
    model, other, tries = layers(), Recorder(), []

    def failing(figures, step):
        tries.append(step)
        raise OSError(28, "No space left on device")

    with gt.watch(model) as watched:
        watched.log_to(failing)
        watched.log_to(other)
        with pytest.warns(RuntimeWarning, match="log_to: function failed at step 0, OSError: .*No space") as told:
            train(model, 4)
        assert len(told) == 1
        assert tries == [0, 1, 2]
        with pytest.raises(OSError, match="No space"):
            watched.log_to(failing)
        watched.log_to(failing)
        assert tries == [0, 1, 2, 3]
    assert other.steps == [0, 1, 2, 3]


def test_what_a_writer_runs_of_the_model_is_no_step():
    model, steps = layers(), []

    def writer(figures, step):
        model(torch.randn(2, 8)).sum().backward()
        steps.append(step)

    with gt.watch(model) as watched:
        watched.log_to(writer)
        train(model, 3)
        assert watched.trace().step == 2
    assert steps == [0, 1, 2]


def test_a_watch_lets_go_of_its_writers_at_its_end_and_of_itself():
    model, writer = layers(), Recorder()
    with gt.watch(model) as watched:
        watched.log_to(writer)
        train(model, 2)
    gone = weakref.ref(writer)
    del writer
    gc.collect()
    assert gone() is None
    writer = Recorder()
    gone, of_writer = weakref.ref(watched := gt.watch(model).__enter__()), weakref.ref(writer)
    watched.log_to(writer)
    train(model, 2)
    assert writer.steps == [0]
    del watched, writer
    gc.collect()
    assert gone() is None
    assert of_writer() is None
    train(model, 1)


def test_a_watch_entered_again_gives_later_steps_to_those_who_ask_again():
    model, writer, other = layers(), Recorder(), Recorder()
    watched = gt.watch(model)
    with watched:
        watched.log_to(writer)
        watched.log_to(other)
        train(model, 2)
    with watched:
        watched.log_to(writer)
        train(model, 2)
    assert writer.steps == [0, 1, 2, 3]
    assert other.steps == [0, 1]


# Bad input -------------------------------------------------------------------------------------------------------------


WRITERS = "writer: expected a SummaryWriter, wandb or a run of it, mlflow or (MlflowClient, run), a Lightning logger, "


@pytest.mark.parametrize(
    ("options", "kind", "words"),
    [
        ({"writer": 3}, TypeError, WRITERS + "or a function of figures and step, got int"),
        ({"writer": None}, TypeError, WRITERS),
        ({"writer": "runs"}, TypeError, WRITERS),
        ({"writer": (3, "a")}, TypeError, WRITERS),
        ({"writer": ()}, TypeError, WRITERS),
        ({"writer": Board}, TypeError, WRITERS + "or a function of figures and step, got the class Board"),
        ({"prefix": 3}, TypeError, "prefix: expected a string, got int"),
        ({"prefix": "/"}, ValueError, "prefix: expected a name, got '/'"),
        ({"modules": 0}, ValueError, "modules: expected at least 1, got 0"),
        ({"modules": True}, TypeError, "modules: expected an integer, got bool"),
        ({"modules": "24"}, TypeError, "modules: expected a list of names, got str; for example modules=['24'], or modules=10"),
        ({"modules": ["25"]}, ValueError, "modules: expected names of modules that are watched, got '25'"),
        ({"modules": [3]}, TypeError, "modules: expected names of modules that are watched, got 3"),
        ({"figures": ["delta"]}, ValueError, "figures: expected one of log2_grad_output, "),
        ({"figures": ["kind"]}, ValueError, "figures: expected one of log2_grad_output, "),
        ({"figures": "gain"}, TypeError, "figures: expected a list of names, got str"),
        ({"backward": 0.5}, TypeError, "backward: expected an integer, got float"),
        ({"backward": 256}, ValueError, "backward: expected 0 to 255, got 256"),
        ({"inside": 1}, TypeError, "inside: expected True or False, got int"),
        ({"start": "7"}, TypeError, "start: expected an integer, got str"),
    ],
)  # fmt: skip
def test_bad_arguments_are_named_and_leave_nothing(options, kind, words):
    model, writer = layers(), Recorder()
    with gt.watch(model) as watched:
        with pytest.raises(kind) as error:
            watched.log_to(**{"writer": writer} | options)
        assert str(error.value).startswith(words)
        train(model, 2)
    assert writer.rows == []


def test_the_inside_needs_a_watch_that_looks_there():
    with (
        gt.watch(layers(), inside=False) as watched,
        pytest.raises(ValueError, match="inside: expected a watch that looks"),
    ):
        watched.log_to(Recorder(), inside=True)


def test_a_watch_that_was_never_open_has_nothing_to_log():
    with pytest.raises(RuntimeError, match="log_to: expected a watch that is open, or has recorded a step"):
        gt.watch(layers()).log_to(Recorder())


LAZY = """
import sys
import gradtrace as gt
assert "gradtrace.integrations" not in sys.modules
gt.integrations
loaded = {"torch", "lightning", "pytorch_lightning", "transformers", "wandb", "mlflow", "tensorboard", "tensorboardX"}
assert not loaded & set(sys.modules), loaded & set(sys.modules)
"""


def test_no_library_is_imported_before_it_is_needed():
    done = subprocess.run([sys.executable, "-c", LAZY], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_callbacks_without_their_library_say_what_to_install(monkeypatch):
    for name in ("lightning", "lightning.pytorch", "pytorch_lightning", "transformers"):
        monkeypatch.setitem(sys.modules, name, None)
    for callback in (gt.integrations.LightningCallback, gt.integrations.TrainerCallback):
        with pytest.raises(
            ImportError, match=rf"{callback.__name__} needs .*; pip install 'gradtrace\[integrations\]'"
        ):
            callback()
