"""Figures of a watch written to TensorBoard's files and read back by TensorBoard."""

import pytest

import gradtrace as gt

torch = pytest.importorskip("torch")
pytestmark = [pytest.mark.filterwarnings("ignore::DeprecationWarning"), pytest.mark.filterwarnings("ignore::UserWarning")]  # fmt: skip


@pytest.mark.parametrize("library", ["torch.utils.tensorboard", "tensorboardX"])
def test_scalars_are_read_back(library, tmp_path):
    events = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    writer = pytest.importorskip(library).SummaryWriter(str(tmp_path))
    torch.manual_seed(0)
    layers = [part for _ in range(40) for part in (torch.nn.Linear(8, 8), torch.nn.Sigmoid())]
    model, rows = torch.nn.Sequential(*layers, torch.nn.Linear(8, 2)), []
    with torch.no_grad():
        for module in model[:40:2]:
            module.weight.mul_(1e-3)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with gt.watch(model, every=2) as watched:
        watched.log_to(writer)
        watched.log_to(lambda figures, step: rows.append((step, figures)))
        for number in range(6):
            optimizer.zero_grad()
            loss = model(torch.randn(16, 8)).square().mean()
            loss.backward()
            optimizer.step()
            writer.add_scalar("loss", loss.item(), number)
    writer.close()
    read = events.EventAccumulator(str(tmp_path)).Reload()
    tags = read.Tags()["scalars"]
    assert len(tags) == 13
    assert len(read.Scalars("loss")) == 6
    for tag in tags:
        if tag != "loss":
            got = [(one.step, one.value) for one in read.Scalars(tag)]
            assert [step for step, _ in got] == [0, 2, 4]
            # Files of TensorBoard hold float32.
            assert [value for _, value in got] == [torch.tensor(figures[tag]).item() for _, figures in rows]
    assert [one.value for one in read.Scalars("gradtrace/0/log2_grad_output")] == [-150.0] * 3  # vanished, and seen
    assert min(one.value for one in read.Scalars("gradtrace/zeros")) > 0
