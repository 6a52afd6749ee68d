"""The PDF: what it says, that it is the same each time, that nothing breaks it."""

import dataclasses
import json
import re
import shlex
import sys
from html.parser import HTMLParser

import numpy as np
import pytest

from fit.allocation.scaling_law import ScalingLaw
from fit.errors import RecordError, ReportError
from fit.fitting import FitOptions, fit_table
from fit.forecasts.ledger import read_ledger, seal
from fit.forecasts.scoring import score_loss
from fit.laws.families import LAWS, law
from fit.quantities import short, three_digits
from fit.query.answer import answer
from fit.query.question import Question
from fit.report.figures import FIGURES
from fit.report.render import html_page, mathematics, report_path, typeset, write_report
from fit.report.summary_page import report_content
from fit.report.tables import clean, shell_lines
from fit.results import write_fit
from fit.verdict import Note
from tests.fit.builders import RECIPE, THETA, make_fit, make_points, plain_points
from tests.fit.laws.builders import TRUTH, lawful
from tests.fit.report.conftest import MOVED

COMMON = ("loss-compute", "optimum", "isoflop", "surface", "tokens", "fit", "residuals")
HOSTILE = 'a"b\\c #strong[x] $y$ <z> `q` @r *s* _t_ //u /* é 漢 \n\t\x07 ' + "w" * 300


def page(fit):
    """The content of a report with the figures that every test has."""
    return report_content(ScalingLaw.from_fit(fit), drawn={n: () for n in FIGURES if n in COMMON})


def summary_text(content):
    return "".join(words for _, words in content["summary"])


def tables_of(content):
    blocks = [b for s in (*content["brief"], *content["sections"]) for b in s["blocks"]]
    return [b for b in blocks if b["kind"] == "table"]


def launch_of(content):
    """The command of page 2 that launches the answer; None where there is none."""
    blocks = [
        b for s in content["brief"] for b in s["blocks"] if b.get("lead", "").startswith("Tr")
    ]
    return blocks[0]["code"] or None if blocks else None


def hostile_fit():
    points = make_points()
    names = (HOSTILE, *points.run[1:])
    return make_fit(
        name="odd #name $x$",
        points=dataclasses.replace(points, run=names),
        runs_dropped=tuple((f"{HOSTILE}{i}", HOSTILE) for i in range(40)),
        notes=(Note(code="odd", severity="warning", message=HOSTILE),),
        data={"name": HOSTILE, "hash": "sha256:0", "unique_tokens": 10**9},
    )


def test_the_same_fit_gives_the_same_bytes(tmp_path, figures, drawn):
    write_fit(tmp_path / "one", make_fit(influence=(MOVED,)))
    made = write_report(tmp_path / "one").path.read_bytes()
    files = {f.name: f.read_bytes() for f in (tmp_path / "one" / "figures").iterdir()}
    again = {f"{n}.pdf": d.pdf for n, d in figures.items()}
    again |= {f"{n}.svg": d.svg for n, d in figures.items()}
    again |= {f"{n}.csv": d.csv.encode() for n, d in figures.items()}
    assert files.keys() - again.keys() == {"models-sources.csv"}
    assert {n: files[n] for n in again} == again
    assert made.startswith(b"%PDF")
    assert made == typeset(
        report_content(
            ScalingLaw.from_fit(make_fit(influence=(MOVED,))),
            drawn={n: f.shown for n, f in figures.items()},
        ),
        drawn,
    )


def test_every_figure_is_made_for_a_fit_that_has_what_it_shows(figures):
    requested = {"serving", "repeats", "skills", "scores", "scores-loss", "ladder"}
    of_curves = {"curves", "phase", "training"}  # drawn in test_captions
    measured = {"ladder"}  # drawn in test_context_plots
    assert figures.keys() == FIGURES.keys() - requested - of_curves - measured


def test_names_cannot_break_or_run_the_template(drawn):
    assert typeset(page(hostile_fit()), drawn).startswith(b"%PDF")


@pytest.mark.parametrize(
    "changes",
    [
        {"points": plain_points(), "convention": {"params": "as given", "flops": "6nd"}},
        {"holdout": None, "cross_checks": (), "conventions": (), "data": {}, "notes": ()},
        {"kappa": float("inf"), "status": "ill_conditioned"},
        {"theta": {**make_fit().theta, "E": 0.0}, "status": "at_bound"},
        {"interval": dataclasses.replace(make_fit().interval, quantile=None, bounds={})},
        {"runs_dropped": (), "draws": np.empty((0, 5)), "versions": {}},
    ],
)
def test_unusual_fits_are_set(drawn, changes):
    assert typeset(page(make_fit(**changes)), drawn).startswith(b"%PDF")


def test_every_law_of_the_catalogue_can_be_set_as_a_formula(drawn):
    content = page(make_fit())
    formulas = [f"${law(name).formula}$" for name in LAWS]
    assert typeset({**content, "about": " ".join(formulas)}, drawn).startswith(b"%PDF")


def test_the_report_answers_at_the_largest_budget_and_at_ten_times_it():
    fit = make_fit()
    content = report_content(ScalingLaw.from_fit(fit))
    rows = dict(content["answers"]["rows"])
    assert rows["Budget over the largest fitted"] == [["×1.00"], ["×10.0"]]
    best, ends = rows["Parameters $N^*$"][1]
    assert f"train {best} parameters (90%: {ends})" in summary_text(content)
    assert rows["Just as good: $N$ within noise"][1][0] in summary_text(content)
    assert json.dumps(content, allow_nan=False)


def test_page_one_gives_the_numbers_of_the_query_for_twenty_questions():
    random = np.random.default_rng(7)
    for _ in range(10):
        nudge = np.exp(0.05 * random.standard_normal(5))
        values = dict(zip(THETA, nudge * np.array(list(THETA.values())), strict=True))
        source = ScalingLaw.from_fit(make_fit(theta=values))
        rows = dict(report_content(source)["answers"]["rows"])
        for place, factor in enumerate((1.0, 10.0)):
            question = Question(source=source, flops=factor * source.range["flops"].high)
            result = answer(question)
            for label, number, form in (
                ("Parameters $N^*$", result.params, short),
                ("Training tokens $D^*$", result.tokens, short),
                ("Tokens per parameter", result.tokens_per_param, three_digits),
                ("Loss, the law [nats/token]", result.loss, "{:.4f}".format),
                ("Loss, next run (prediction)", result.loss_next_run, "{:.4f}".format),
            ):
                ends = f"{form(number.low)} to {form(number.high)}"
                assert rows[label][place] == [form(number.value), ends]


def test_the_report_refuses_where_the_query_does():
    assert report_content(ScalingLaw.from_fit(make_fit(kappa=2000.0)))["refused"]
    assert not report_content(ScalingLaw.from_fit(make_fit()))["refused"]


def test_the_known_entropy_is_held_against_e():
    texts = [text for _, text in report_content(ScalingLaw.from_fit(make_fit()))["checks"]]
    assert any("1.0900 nats/token, inside" in t for t in texts)
    off = report_content(ScalingLaw.from_fit(make_fit(data={"entropy": 0.5})))["checks"]
    assert ["fair", off[-1][1]] == off[-1]
    assert "outside" in off[-1][1]


def test_the_gravest_doubt_stands_first_and_none_twice():
    notes = (
        Note(code="a", severity="info", message="a trifle"),
        Note(code="b", severity="serious", message="It is a disaster. Run more."),
    )
    content = report_content(ScalingLaw.from_fit(make_fit(notes=notes)))
    limitations = content["limitations"]
    assert content["verdict"] == ["refuse", "It is a disaster."]
    assert limitations[0] == ["serious", "Run more."]
    assert (content["refused"], content["answers"]) == (True, None)
    assert len({text for _, text in limitations}) == len(limitations)


def test_page_1_gives_the_reason_that_a_query_of_its_budget_gives():
    doubt = (Note(code="not_determined", severity="warning", message="E is open. Add runs."),)
    few = {"unique_tokens": 1e6, "entropy": None}
    source = ScalingLaw.from_fit(make_fit(notes=doubt, data=few))
    asked = Question(source=source, flops=source.fit.range["flops"].high)
    found = report_content(source, asked=asked)["verdict"]
    assert found[1].rstrip(".") == answer(asked).verdict.reason.rstrip(".")
    assert "epochs" in found[1]


def test_doubts_of_one_kind_are_told_once():
    notes = tuple(
        Note(code="outlier", severity="warning", message=f"run {i} is off") for i in range(5)
    )
    content = report_content(ScalingLaw.from_fit(make_fit(notes=notes)))
    assert content["verdict"] == ["careful", "Run 0 is off."]
    assert content["limitations"][0] == ["warning", "Run 1 is off. And 3 more of this kind."]
    assert len(content["limitations"]) == 2


def test_notes_beyond_the_third_stand_in_the_appendix():
    notes = tuple(
        Note(code=f"c{i}", severity="warning", message=f"doubt number {i}") for i in range(6)
    )
    content = report_content(ScalingLaw.from_fit(make_fit(notes=notes)))
    told = [content["verdict"][1], *(t for _, t in content["limitations"][:3])]
    assert told == [f"Doubt number {i}." for i in range(4)]
    section = next(s for s in content["sections"] if s["title"] == "Further notes")
    rows = section["blocks"][0]["rows"]
    assert [t for _, t in rows] == [f"Doubt number {i}." for i in (4, 5)]


def test_a_doubt_of_the_answer_is_not_told_again_by_the_fit():
    notes = (Note(code="ill_conditioned", severity="warning", message="kappa 400"),)
    content = report_content(ScalingLaw.from_fit(make_fit(notes=notes, kappa=400.0)))
    assert "kappa" in content["verdict"][1]
    assert not any("kappa" in text for _, text in content["limitations"])


def test_of_many_runs_those_farthest_from_the_law_are_listed():
    points = make_points()
    many = {
        f.name: np.tile(getattr(points, f.name), 8)
        for f in dataclasses.fields(points)
        if f.name not in ("run", "columns")
    }
    wide = dataclasses.replace(points, run=points.run * 8, columns={}, **many)
    content = tables_of(report_content(ScalingLaw.from_fit(make_fit(points=wide))))
    runs = next(t for t in content if t["columns"][0]["head"] == "run" and t["dense"])
    assert runs["caption"].startswith("200 runs, those farthest from the law first")
    assert len(runs["rows"]) == 96
    off = [abs(float(r[-1].replace("\N{MINUS SIGN}", "-"))) for r in runs["rows"]]
    assert off == sorted(off, reverse=True)


def test_long_names_lose_their_middle_and_control_characters():
    assert clean("ab\ncd") == "ab\N{REPLACEMENT CHARACTER}cd"
    cut = clean("x" * 50 + "end", 20)
    assert len(cut) <= 20
    assert cut.endswith("end")


def test_long_words_can_be_broken_and_ordinary_names_stay_whole():
    assert clean("w64-d2-t2.4M-s0-abcdef12") == "w64-d2-t2.4M-s0-abcdef12"
    assert max(map(len, clean("x" * 100).split("\N{ZERO WIDTH SPACE}"))) < 24


def test_what_cannot_be_launched_has_no_command():
    launch = launch_of(report_content(ScalingLaw.from_fit(make_fit())))
    assert launch.endswith("--config > launch.txt && xargs python -m sweep < launch.txt")
    assert launch_of(report_content(ScalingLaw.from_fit(make_fit(recipe={})))) is None
    assert launch_of(report_content(ScalingLaw.from_fit(make_fit(kappa=2000.0)))) is None


def test_the_whole_command_can_be_copied_and_run():
    fit = make_fit(recipe={**RECIPE, "data.path": "x" * 60})
    sections = report_content(ScalingLaw.from_fit(fit))["sections"]
    facts = next(s for s in sections if s["title"] == "Data, options and versions")
    words = facts["blocks"][-1]["code"]
    assert "x" * 60 in words
    config = answer(
        Question(source=ScalingLaw.from_fit(fit), flops=fit.range["flops"].high * 10)
    ).config
    assert shlex.split(words) == ["python", "-m", "sweep", *config]
    lines = shell_lines(words)
    assert all(len(li) <= 94 for li in lines.splitlines())
    assert shlex.split(lines.replace("\\\n", "")) == shlex.split(words)
    assert not {"\N{SOFT HYPHEN}", "\N{ZERO WIDTH SPACE}"} & set(lines)


def test_the_command_names_the_folder_where_that_can_be_known(tmp_path):
    folders = {"reports/a b": "'reports/a b'", "elsewhere/x": "FOLDER"}
    for place, named in folders.items():
        write_fit(tmp_path / place, make_fit())
        content = report_content(
            ScalingLaw.from_fit(make_fit()), folder=report_path(tmp_path / place)
        )
        assert f"--fit {named} --config" in launch_of(content)


def test_a_law_that_splits_no_budget_has_a_report_without_an_optimum(tmp_path):
    table = lawful(law("width-depth-tokens"), TRUTH["width-depth-tokens"], noise=1e-3)
    fit = fit_table(table, FitOptions(law="width-depth-tokens", resamples=0))
    write_fit(tmp_path, fit)
    assert write_report(tmp_path, form="html").path.exists()
    made = {f.stem for f in (tmp_path / "figures").iterdir()}
    assert {"fit", "residuals"} <= made
    assert not {"optimum", "isoflop", "surface", "loss-compute"} & made
    content = report_content(ScalingLaw.from_fit(fit))
    assert "predict --params N --tokens D --width X --depth X" in summary_text(content)
    assert content["sections"][0]["title"] == "The law"
    assert len(tables_of(content)[0]["rows"]) == len(fit.theta)


def test_sealed_forecasts_beside_the_report_stand_in_it(tmp_path):
    source = ScalingLaw.from_fit(make_fit())
    for name, factor in (("near", 1.0), ("far", 1.3)):
        question = Question(source=source, flops=1e14)
        forecast = seal(tmp_path, name, question, answer(question))
        score_loss(tmp_path, name, forecast.expected.loss * factor)
    content = report_content(source, ledger=read_ledger(tmp_path))
    assert content["checks"][-1] == [
        "info",
        "Of 2 forecasts sealed before their runs 1 came true, 90% promised: too few to tell; they "
        "cannot distinguish 90% from 70%.",
    ]
    section = next(s for s in content["sections"] if s["title"] == "Forecasts")
    assert section["blocks"][0]["text"].startswith("1 of 2 forecasts hit")
    assert {r[0]: r[-1] for r in section["blocks"][1]["rows"]} == {"near": "hit", "far": "miss"}
    assert "Forecasts" not in {s["title"] for s in report_content(source)["sections"]}


def test_other_sizes_cost_what_the_query_says():
    source = ScalingLaw.from_fit(make_fit())
    question = Question(source=source, flops=10 * source.range["flops"].high, regret=True)
    regret = answer(question).regret
    rows = next(t for t in tables_of(report_content(source)) if "Other sizes" in t["caption"])[
        "rows"
    ]
    assert [r[0] for r in rows] == [f"×{r.size:g}" for r in regret]
    assert rows[0][2] == f"{regret[0].loss_up.value:+.4f}"
    assert rows[0][3] == f"{regret[0].compute_up.value:+.1%}"
    refused = tables_of(report_content(ScalingLaw.from_fit(make_fit(kappa=2000.0))))
    assert not any("Other sizes" in t["caption"] for t in refused)


def test_a_folder_without_a_fit_is_refused(tmp_path):
    with pytest.raises(RecordError, match="cannot read"):
        write_report(tmp_path)


def test_a_missing_library_is_named_with_its_cure(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "typst", None)
    with pytest.raises(ReportError, match="typst") as caught:
        write_report(tmp_path)
    assert "isoflop[report]" in str(caught.value)


def test_a_template_error_is_one_line(drawn):
    with pytest.raises(ReportError, match="could not set") as caught:
        typeset({"name": "without the rest"}, drawn)
    assert "\n" not in str(caught.value)


@pytest.fixture(scope="module")
def web(figures):
    return html_page(page(hostile_fit()), {n: d.svg for n, d in figures.items()})


class Reader(HTMLParser):
    """Tags, their attributes and the text of a page."""

    def __init__(self):
        super().__init__()
        self.seen, self.open, self.words = [], [], ""

    def handle_starttag(self, tag, attrs):
        self.seen.append((tag, dict(attrs)))
        if tag not in ("meta", "br"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.words += data


def test_the_web_page_needs_nothing_but_itself(web):
    reader = Reader()
    reader.feed(web)
    assert reader.open == []
    assert not {"script", "link", "iframe", "img", "object"} & {tag for tag, _ in reader.seen}
    for _, attributes in reader.seen:
        for name, value in attributes.items():
            assert not name.startswith("on")
            if name in ("src", "href", "xlink:href", "style", "clip-path"):
                inline = (value or "").startswith("data:image/png;base64,")  # letters hold // too
                assert inline or not re.search(r"https?:|//|@import", value or "")
    assert "@import" not in web
    assert not re.search(r"url\((?!#)", web)


def test_names_cannot_break_the_web_page(web):
    reader = Reader()
    reader.feed(web)
    assert "z" not in {tag for tag, _ in reader.seen}
    assert "<z>" in reader.words
    assert "#strong[x] $y$" in reader.words


def test_figures_inside_the_web_page_share_no_ids(web):
    reader = Reader()
    reader.feed(web)
    ids = [a["id"] for _, a in reader.seen if a.get("id")]
    assert len(ids) == len(set(ids))
    links = {v[1:] for _, a in reader.seen if (v := a.get("xlink:href") or "").startswith("#")}
    links |= set(re.findall(r"url\(#([^)]+)\)", web))
    assert links
    assert links <= set(ids)


def test_page_and_web_page_say_the_same(web):
    reader = Reader()
    reader.feed(web)
    assert summary_text(page(hostile_fit())) in reader.words.replace(" × 10", "e")


def test_mathematics_is_set_for_the_web():
    def bare(text):
        return re.sub(r"</?(?:i|span)[^>]*>", "", mathematics(text))

    assert bare("N^*") == "N<sup>∗</sup>"
    assert bare("L = E + A/N^alpha") == "L = E + A/N<sup>α</sup>"
    assert (
        bare("(N_c/N)^(alpha_N/alpha_D)")
        == "(N<sub>c</sub>/N)<sup>α<sub>N</sub>/α<sub>D</sub></sup>"
    )
    assert bare("2.1 times 10^12") == "2.1 × 10<sup>12</sup>"
