"""The nine questions: two sentences each, every number of them measured, and one page."""

import json
import math
import re

import numpy as np
import pytest
from asked import asked
from click.testing import CliRunner
from tolerances import tolerance

from gradtrace import questions
from gradtrace.cli.main import cli
from gradtrace.questions.answer import VERDICTS

MEASURED_IN_TIME = {"subnormal_slowdown", "trace_slowdown"}


@pytest.fixture(scope="module")
def answers():
    answers, seconds = asked(0)
    assert seconds < 60, "the issue: all nine in under a minute"
    return answers


def test_nine_answers_of_two_sentences(answers):
    assert [one.number for one in answers] == list(range(1, 10))
    for one in answers:
        assert one.verdict in VERDICTS
        sentences = re.split(r"(?<=[a-z0-9%).])\. (?=[A-Z])", one.text)
        assert len(sentences) == 2, one.text
        assert one.text.endswith(".")
        assert one.folk
        assert one.caption
        assert one.numbers
        assert all(math.isfinite(value) for value in one.numbers.values()), one.numbers


def test_another_seed_gives_other_numbers(answers):
    for one, other in zip(answers, asked(1)[0], strict=True):
        changed = {name for name in one.numbers if one.numbers[name] != other.numbers[name]}
        constant = {"dead_expected", "states_read_as_zero", "zero_layers", "subnormal_layers"} | MEASURED_IN_TIME
        constant |= {"dead_relu", "dead_hard_tanh", "dead_tanh", "networks_with_half_of_the_squares"}  # counts
        constant |= {"dead_relu_12_units", "dead_hard_tanh_12_units"}
        constant |= {"dead_in_first_layer", "back_in_first_layer", "dead_above", "back_above"}
        assert set(one.numbers) - changed <= constant | {"identity_error_bits"}, one.number
        assert one.text != other.text


def test_the_same_seed_gives_the_same_numbers(answers):
    for one, again in zip(answers, questions.ask(seed=0), strict=True):
        for name in set(one.numbers) - MEASURED_IN_TIME:
            assert one.numbers[name] == again.numbers[name], (one.number, name)


def test_numbers_agree_with_theory(answers):
    """theory.md: sections A, B, C, F and H, within what finite width and few networks leave."""
    n = {one.number: one.numbers for one in answers}
    assert abs(n[1]["factor_gain_1"] - 0.23605) < tolerance("claims", "factor of sigmoid")
    assert abs(n[1]["factor_gain_4"] - 0.6316) < tolerance("claims", "factor of four times the weights")
    assert abs(n[1]["factor_gain_critical"] - 1) < tolerance("claims", "factor a layer")
    assert abs(n[2]["lost_upper_relu"] - 14.5) < tolerance("claims", "bits of 30 layers")
    assert abs(n[2]["dead_relu"] - n[2]["dead_expected"]) < tolerance("samples", "standard errors of one") * math.sqrt(
        0.07 * 0.93 / 400
    )
    assert abs(n[2]["dead_expected"] - (1 - (7 / 8) ** 20)) < tolerance("recomputed", "sums")
    assert abs(math.log2(n[3]["left_glorot"]) + 15) < tolerance("claims", "bits of 29 layers")
    # median of ln |.|^2 near -(5/2) sum 1/n
    assert abs(math.log2(n[3]["typical_narrow_he"]) + 2.5 * 30 / 16 / 2 / math.log(2)) < tolerance(
        "claims", "bits of narrow layers"
    )
    assert n[4]["log2_change_PyTorch's_own"] < -250
    assert n[4]["states_read_as_zero"] > 200
    assert abs(n[5]["log2_left_PyTorch's default"] - 49 * math.log2(3**-0.5)) < tolerance("claims", "bits of 49 layers")
    assert abs(n[5]["log2_left_critical"]) < tolerance("claims", "bits of 49 layers")
    assert n[6]["loss_tanh"] < 0.5 < 2 < n[6]["loss_sigmoid"]
    assert abs(n[7]["bits_half"] + 1) < tolerance("claims", "bits of a gain")
    assert abs(n[7]["bits_double"] - 1) < tolerance("claims", "bits of a gain")
    assert abs(n[8]["bits_per_layer"] - math.log2(0.23605)) < tolerance("claims", "bits a layer")
    assert abs(n[8]["zero_layers"] - (200 - 72)) < tolerance(
        "claims", "layers that read 0"
    )  # float32 reads 0 from about 70 layers down
    assert n[9]["identity_error_bits"] < tolerance("recomputed", "differences")
    assert n[9]["log2_delta_first_over_last"] < -20
    assert abs(n[9]["log2_weight_gradient_first_over_last"]) < 1


def test_the_text_s_numbers_are_the_numbers(answers):
    """Some of each answer, in the form in which the text has them."""
    by_number = {one.number: one for one in answers}
    for number, name, form in (
        (1, "factor_gain_1", "{:.3f}"), (1, "factor_gain_4", "{:.3f}"), (2, "lost_upper_relu", "{:.1f}"),
        (2, "dead_relu", "{:.0%}"), (3, "typical_narrow_he", "{:#.3g}"), (4, "log2_change_forget_bias_1", "2^{:.0f}"),
        (6, "loss_sigmoid", "{:.2f}"), (7, "bits_double", "{:.2f}"), (8, "log2_left", "2^{:.0f}"),
        (6, "loss_tanh_last_layer", "{:.2f}"), (9, "back_above", "{:.0f}"),
    ):  # fmt: skip
        value = by_number[number].numbers[name]
        assert form.format(value) in by_number[number].text, (number, name)


def test_figures_have_units(answers):
    pyplot = pytest.importorskip("matplotlib.pyplot")
    for one in answers:
        _, ax = pyplot.subplots()
        assert one.plot(ax) is ax
        assert ax.get_xlabel()
        pyplot.close("all")
    assert answers[0].plot().get_ylabel()
    pyplot.close("all")


def test_the_page(answers):
    page = questions.render_html(answers, 0, "gradtrace questions")
    assert len(page) < 5e6
    assert page.count("<svg ") >= 9
    assert not re.findall(r'(?:src|href)="(?!#)', page), "offline: nothing is loaded"
    assert "<script" not in page
    assert "prefers-color-scheme: dark" in page
    assert "@media print" in page
    for one in answers:
        assert f"{one.number}. " in page
    identifiers = re.findall(r'\bid="([^"]+)"', page)
    assert len(identifiers) == len(set(identifiers))
    assert "^-" not in re.sub(r"<svg.*?</svg>", "", page, flags=re.DOTALL)


def test_some_of_them():
    assert [one.number for one in questions.ask([3, 1])] == [3, 1]
    seen = []
    questions.ask([2], progress=seen.append)
    assert seen == [2]
    assert "Folk answer (wrong)" in str(questions.ask([3])[0])


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"numbers": [0]}, ValueError, "numbers: expected 1 to 9, got 0"),
        ({"numbers": ["1"]}, TypeError, "numbers: expected integers, got str"),
        ({"seed": -1}, ValueError, "seed: expected 0 to"),
    ],
)
def test_errors_name_the_argument(arguments, error, message):
    with pytest.raises(error, match=message):
        questions.ask(**arguments)


def test_command(tmp_path):
    run = CliRunner()
    result = run.invoke(cli, ["questions", "3", "5", "--seed", "2", "--output", str(tmp_path / "page.html")])
    assert result.exit_code == 0, result.output
    assert "Does tanh avoid" in result.output
    page = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert page.count('class="question"') == 2
    assert "gradtrace questions 3 5 --seed 2" in page
    result = run.invoke(cli, ["questions", "1", "--json"])
    answer = json.loads(result.output)["answers"][0]
    assert answer["number"] == 1
    assert np.isclose(answer["numbers"]["factor_gain_1"], 0.236, atol=tolerance("claims", "product of factors"))


@pytest.mark.parametrize("arguments", [["10"], ["--seed", "-1"], ["--output", "/no/such/folder/x.html"]])
def test_bad_input_gets_one_line_and_status_2(arguments):
    result = CliRunner().invoke(cli, ["questions", *arguments])
    assert result.exit_code == 2
    assert len(result.output.strip().splitlines()) == 1
