"""The page of ``gradtrace diagnose``: its first sentence names the winner, and every remedy is explained."""

import html
import re

import numpy as np
import pytest
from click.testing import CliRunner

import gradtrace as gt
from gradtrace.cli.main import cli
from gradtrace.report.diagnosis import headline, winner
from gradtrace.show.loss_plots import loss_lines, plot_losses


def rows(samples=256):
    rng = np.random.default_rng(0)
    x = rng.standard_normal((samples, 16)).astype("float32")
    return x, x[:, :4].argmax(axis=1)


def written(folder, stack, x, labels):
    np.savez(folder / "model.npz", **{f"{k}.weight": w for k, w in enumerate(stack.weights)})
    np.savez(folder / "data.npz", x=x, y=labels)


def page_of(folder, stack, *options):
    x, labels = rows()
    written(folder, stack, x, labels)
    arguments = ["diagnose", folder / "model.npz", "--data", folder / "data.npz", "--target", "y", "--activation"]
    arguments += [stack.activation[0], "--output", folder / "page.html", *options]
    result = CliRunner().invoke(cli, list(map(str, arguments)))
    assert result.exit_code == 0, result.output
    return (folder / "page.html").read_text(encoding="utf-8"), result.output


def plain(text):
    return " ".join(html.unescape(re.sub(r"<[^>]*>", "", text)).split())


BROKEN = gt.Stack.random([16, *[24] * 12, 4], "sigmoid", seed=0)


@pytest.fixture(scope="module")
def broken(tmp_path_factory):
    return page_of(tmp_path_factory.mktemp("broken"), BROKEN)


def test_the_first_sentence_names_the_winner(broken):
    page, printed = broken
    title = plain(re.search(r"<h1>(.*?)</h1>", page, re.DOTALL)[1])
    first = plain(re.search(r'<p class="winner">(.*?)</p>', page, re.DOTALL)[1])
    best = re.search(r"; (\w+) helps most$", title)[1]
    assert re.match(rf"Of \d+ remedies tried {best} helps most: ", first)
    assert first in " ".join(printed.split())
    assert f"<strong>{best}</strong>" in re.search(r'<div class="remedy best">.*?</div>', page, re.DOTALL)[0]
    assert page.count('<div class="remedy best">') == 1


def test_every_remedy_of_the_table_is_explained_with_its_lines(broken):
    page, _ = broken
    table = re.search(r"<h2>What was tried.*?</table>", page, re.DOTALL)[0]
    names = [plain(cell) for cell in re.findall(r"<tr[^>]*><td[^>]*>(.*?)</td>", table, re.DOTALL)]
    explained = re.findall(r'<div class="remedy(?: best)?">\n<p><strong>(\w+)</strong>', page)
    assert names == ["as it is", *explained]
    assert page.count("<summary>in PyTorch</summary>") == len(explained) > 3
    for part in re.findall(r'<div class="remedy.*?</div>', page, re.DOTALL):
        assert len(plain(part).split()) > 20


def test_the_winner_is_marked_in_the_table(broken):
    page, _ = broken
    marked = re.findall(r'<tr class="best"[^>]*>(.*?)</tr>', page, re.DOTALL)
    assert len(marked) == 1
    cells = [plain(cell) for cell in re.findall(r"<td[^>]*>(.*?)</td>", marked[0], re.DOTALL)]
    assert cells[0] == re.search(r"; (\w+) helps most</h1>", page)[1]
    assert cells[-1] == "most"


def test_the_losses_of_the_trials_are_drawn(broken):
    page, _ = broken
    for name in ("SGD", "Adam"):
        figure = re.search(rf'<svg [^>]*aria-label="Loss of the trials with {name}".*?</svg>', page, re.DOTALL)[0]
        assert len(re.findall(r'id="loss-\w+-line2d', figure)) > 5
    best = re.search(r"; (\w+) helps most</h1>", page)[1]
    legend = [plain(item) for item in re.findall(r"<li>(.*?)</li>", page, re.DOTALL)]
    assert legend[:2] == ["as it is", best]


def test_curves_are_those_of_the_trials():
    x, labels = rows()
    tried = BROKEN.remedies(x, labels, "cross_entropy", only=["tanh_orthogonal"], steps=20)
    curves = {
        one.name or "as it is": [(s, held) for s, _, held in one.trainings["adam"].curve]
        for one in (tried.before, *tried)
    }
    axes = plot_losses(curves)
    lines = {line.get_label(): line.get_xydata() for line in axes.get_lines()}
    assert set(lines) == set(curves)
    for name, curve in curves.items():
        np.testing.assert_array_equal(lines[name], curve)
    assert [name for name, _, _ in loss_lines(["a", *"bcdefgh"])] == ["a", *"bcdef", "2 others"]
    plot_losses({"as it is": [(1, 0.0), (2, -1.0)], "diverged": [], "too": [(1, float("inf"))]})


def test_that_nothing_was_reached_is_said(tmp_path):
    page, printed = page_of(tmp_path, BROKEN, "--seconds", "1e-9")
    said = "No remedy was reached within the time given: not reached in 0 s: "
    assert said in plain(page)
    assert said in " ".join(printed.split())


def test_findings_on_the_page_have_no_raw_keys(broken):
    page, _ = broken
    for part in re.findall(r'<div class="finding.*?</div>', page, re.DOTALL):
        assert "<b>First:</b>" in part
        told = plain(re.search(r"<small>(.*?)</small>", part, re.DOTALL)[1])
        assert told.endswith(".")
        assert not re.search(r"log2_|_bits|_per_", told)


def test_without_trials_the_page_says_why(tmp_path):
    page, printed = page_of(tmp_path, BROKEN, "--no-remedies")
    assert "No remedy was tried, as it was asked." in plain(page)
    assert "No remedy was tried, as it was asked." in printed
    healthy, printed = page_of(tmp_path, gt.Stack.random([16, 24, 24, 4], "tanh", init="orthogonal", seed=0))
    assert "No remedy was tried, since no finding calls for one." in plain(healthy)
    assert "<h1>model.npz: nothing stands in the way of training</h1>" in healthy


def test_that_nothing_helps_is_said(tmp_path):
    x, labels = rows()
    trace = BROKEN.trace(x, target=labels, loss="cross_entropy")
    tried = BROKEN.remedies(x, labels, "cross_entropy", only=["zero_bias", "gradient_clipping"], steps=2)
    assert tried.best is None
    assert re.search(r"; no remedy tried (helps|is known to help)$", headline("m", trace.diagnose(), tried))
    assert re.match(
        r"Of (one remedy|\d remedies) tried none (helps|is known to help)", winner(trace.diagnose(), tried, True)
    )
