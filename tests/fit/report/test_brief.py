"""The brief: the user's question on page 1, and what to run next."""

import dataclasses
import re
import shlex

import pytest
from click.testing import CliRunner

from fit.allocation.scaling_law import ScalingLaw
from fit.cli.main import main
from fit.data.accounting import Shape
from fit.errors import FieldError, QueryError
from fit.query.answer import answer
from fit.query.question import Question
from fit.report.brief import front_matter, question_options, read_request
from fit.report.markup import latex_document, markdown_page
from fit.report.render import html_page, typeset
from fit.report.summary_page import report_content
from fit.report.tables import shape_words
from fit.results import write_fit
from tests.fit.builders import make_fit

SOURCE = ScalingLaw.from_fit(make_fit())


def content(**fields):
    request, asked = read_request(SOURCE, fields)
    return report_content(SOURCE, request=request, asked=asked)


def words(parts):
    return "".join(text for _, text in parts)


def test_page_one_answers_the_question_that_was_put():
    made = content(flops="3e13", max_params="200k")
    assert "3e13 FLOP train, with parameters at most 200k?" in words(made["question"])
    reply = answer(Question(source=SOURCE, flops=3e13, max_params=2e5))
    rows = dict(made["answers"]["rows"])
    assert rows["Parameters $N^*$"][1][0] == "200k"
    assert rows["Loss, the law [nats/token]"][1][0] == f"{reply.loss.value:.4f}"
    assert made["answers"]["heads"][1] == ["as asked", "3e13"]
    limits = next(s for s in made["brief"] if s["title"] == "Limits of the question")
    assert any(t.startswith("Binds: max params 200k") for _, t in limits["blocks"][0]["rows"])


def test_without_a_question_page_one_is_that_of_ten_times_the_largest_budget():
    assert content() == report_content(SOURCE)
    assert "10 times the largest budget fitted?" in words(content()["question"])
    request, asked = read_request(SOURCE, {"serve_tokens": "1e9", "price": "2", "device": "h100"})
    assert asked is None
    assert (request.serve_tokens, request.price, request.device) == (1e9, 2.0, "h100")


def test_a_limit_without_a_budget_is_asked_at_the_default_one():
    _, asked = read_request(SOURCE, {"memory": "400kB"})
    assert asked.flops == pytest.approx(10 * SOURCE.range["flops"].high)


@pytest.mark.parametrize(
    "fields",
    [
        {"flops": "1e14", "memory": "400kB", "bytes_per_param": "1"},
        {"dollars": "0.001", "price": "2", "device": "h100", "max_ratio": "40"},
        {"loss": "1.6", "unique_tokens": "30M"},
        {"deadline": "0.01", "devices": "8", "device": "a100", "mfu": "0.3"},
    ],
)
def test_the_commands_of_page_two_put_the_same_question_again(fields):
    _, asked = read_request(SOURCE, fields)
    typed = shlex.split(question_options(asked, 1e14))
    again, place = {}, 0
    while place < len(typed):
        if typed[place].startswith("--"):
            again[typed[place][2:].replace("-", "_")] = typed[place + 1]
            place += 2
        else:
            again["flops"] = typed[place]
            place += 1
    assert read_request(SOURCE, again)[1] == asked


def test_money_stands_on_page_one_and_two_where_a_price_is_given():
    made = content(flops="1e14", price="2.5", device="h100")
    assert "Dollars" in dict(made["answers"]["rows"])
    costs = next(s for s in made["brief"] if s["title"] == "What it costs")
    assert costs["blocks"][0]["lead"] == "The answer"
    assert "hours of h100" in costs["blocks"][0]["text"]


def test_questions_that_no_model_answers_are_refused_as_by_the_query():
    with pytest.raises(QueryError, match="conflict"):
        content(flops="1e14", min_params="2M", max_params="1M")
    with pytest.raises(FieldError, match="given 2 times"):
        content(flops="1e14", loss="1.5")


def test_author_date_data_and_runs_stand_under_the_title():
    fit = make_fit(source={"path": "runs", "hash": "sha256:0", "date": "2026-11-29"})
    front = dict(report_content(ScalingLaw.from_fit(fit), author="A. Author")["front"])
    assert front == {
        "Author": "A. Author",
        "Date of the fit": "2026-11-29",
        "Data set": "stories-demo",
        "Runs": "25 fitted, 1 left out",
    }
    assert dict(report_content(SOURCE)["front"])["Date of the fit"] == "not recorded"


def test_a_refused_question_has_a_report_and_the_exit_code_of_the_query(tmp_path, monkeypatch):
    write_fit(tmp_path / "reports" / "pilot", make_fit(name="pilot"))
    write_fit(tmp_path / "reports" / "blind", make_fit(name="blind", kappa=2000.0))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("fit.report.figures.FIGURES", {})

    def run(*options):
        return CliRunner().invoke(main, ["report", *options, "--format", "md"])

    assert run("reports/blind").exit_code == 0
    far = run("reports/pilot", "--flops", "1e20")
    assert (far.exit_code, far.stderr.count("\n")) == (1, 1)
    page = (tmp_path / "reports" / "pilot" / "report.md").read_text()
    assert "**Refuse.**" in page and "Parameters $N" not in page
    assert run("reports/blind", "--flops", "1e14").exit_code == 1
    assert run("reports/pilot", "--flops", "1e14").exit_code == 0
    assert run("reports/pilot", "--flops", "-1").exit_code == 2
    assert run("reports/pilot", "--price", "2", "--flops", "1e14").exit_code == 2


def test_a_command_too_long_for_the_paper_is_set_whole():
    made = report_content(ScalingLaw.from_fit(make_fit(recipe={"data.path": "x" * 300})))
    assert typeset(made, {}).startswith(b"%PDF")


def test_a_data_set_without_a_name_is_called_by_its_file_and_not_by_its_path():
    fit = make_fit(data={}, source={"path": "/somewhere/here/runs.csv", "hash": "sha256:0"})
    assert ["Data set", "runs.csv"] in front_matter(fit, "")


def test_a_shape_with_one_head_is_said_in_the_singular():
    shape = Shape(width=48, depth=3, heads=1, head_dim=48, d_ff=192, vocab=64, seq_len=128)
    assert shape_words(shape) == "48 wide, 3 deep, 1 head"
    assert shape_words(dataclasses.replace(shape, heads=2)) == "48 wide, 3 deep, 2 heads"


def test_a_refused_report_says_its_reason_once_and_then_what_it_takes():
    made = report_content(ScalingLaw.from_fit(make_fit(kappa=2000.0)))
    blocks = [b for s in made["brief"] for b in s["blocks"]]
    assert "not identified" in made["verdict"][1]
    assert blocks[0]["text"] == "Add budgets or D/N ratios."


@pytest.mark.parametrize(
    "fields, amount",
    [
        ({"flops": "3e13"}, "3e13 FLOP"),
        ({"flops": "5k$ on h100"}, r"\$5,000 at \$[\d.]+ per h100-hour"),
        ({"dollars": "0.001", "device": "h100"}, r"\$0\.001\d* at \$[\d.]+ per h100-hour"),
        ({"dollars": "0.001", "device": "h100", "price": "3"}, r"\$0\.001\d* at \$3 per h100-hour"),
        ({"hours": "0.0001", "device": "h100"}, r"\S+ device-hours on h100"),
        ({"flops": "8 h100 for 1 h"}, r"1[.0]* hours on 8 h100"),
        ({"loss": "1.6"}, "a loss of 1.6 nats"),
    ],
)
def test_a_budget_is_put_in_words_in_every_format_with_or_without_a_price(fields, amount):
    made = content(**fields)  # $5,000 and 8 devices reach too far: refused, in words too
    assert re.search(amount, words(made["question"]))
    made = {**made, "first": None, "brief": [], "sections": []}
    assert typeset(made, {}) and html_page(made, {})
    assert markdown_page(made) and latex_document(made)


def test_a_stored_price_is_named_in_the_notes_of_a_report():
    notes = " ".join(text for _, text in content(dollars="0.001", device="h100")["limitations"])
    assert "n hour of one h100 is taken at $" in notes
