"""Hostile names, fits, ledgers and answers at the doors of reports and exports."""

from __future__ import annotations

import csv
import dataclasses
import io
import json
import math
import re
import shlex
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from fit.allocation.scaling_law import ScalingLaw
from fit.forecasts.ledger import read_ledger, seal
from fit.forecasts.scoring import score_loss
from fit.query.answer import answer
from fit.query.exports import export
from fit.query.launch import launch_line
from fit.query.question import Question
from fit.report.figure_data import figure_table
from fit.report.figures import FIGURES, figure_inputs
from fit.report.render import html_page, typeset
from fit.report.summary_page import report_content
from fit.report.text import answer_text
from fit.results import Fit, Span
from fit.verdict import Note
from tests.fit.builders import RECIPE, THETA, make_fit, make_points, plain_points
from tests.hostile.outcomes import Case, Reply, check_outcome

pytestmark = pytest.mark.slow

NAMES = {
    "typst code": '#import "/etc/passwd": x; #panic("boom") #strong[x]',
    "typst mathematics": "$ integral_0^1 x $ and $ alone",
    "typst raw": '```#x``` "quoted\\" <label> @cite *s* _t_ //c /* d',
    "html": "<script>alert(1)</script><img src=x onerror=alert(1)>&amp;</p>",
    "html attribute": "\" onmouseover=\"alert(1)' style='x",
    "latex": "\\input{/etc/passwd} \\write18{id} \\end{document} 100% {",
    "formula": "=HYPERLINK(\"http://x\",\"y\")",
    "formula plus": "+1+cmd|' /C calc'!A0",
    "very long": "w" * 20_000,
    "many words": "run of a grid " * 2_000,
    "unicode": "é漢字🚀 ٠١٢ שלום \u202eabc\u202c ﬁ a\u0301\u0301",
    "controls": "a\x00b\x07c\nd\re\tf\x1b[31mg\x85h\u2028i",
    "surrogates of paths": "a\u200bb\ufeffc\ud7ffd",
    "format braces": "{formula} {0} {level!r} %s %(x)s",
    "empty": "",
    "blank": "   ",
}  # fmt: skip


def named(text: str) -> Fit:
    """A fit that holds a text in every place that comes from its input."""
    points = make_points()
    return make_fit(
        name=text,
        points=dataclasses.replace(points, run=(text, *points.run[1:])),
        runs_dropped=((text, text),),
        notes=(Note(code="odd", severity="warning", message=f"{text} is odd. Look at it."),),
        data={"name": text, "hash": "sha256:0"},
        convention={"params": text or "matmul", "flops": text or "exact"},
        source={"path": text, "hash": "sha256:1"},
        options={"law": text},
        versions={"isoflop": text},
    )


def pages(fit: Fit, **given: Any) -> dict[str, Any]:
    """The content of a report, set both as PDF and as HTML without figures."""
    content = report_content(ScalingLaw.from_fit(fit), **given)
    assert typeset(content, {}).startswith(b"%PDF")
    content["html"] = html_page(content, {})
    return content


def words_of(content: dict[str, Any]) -> str:
    told = {k: v for k, v in content.items() if k not in ("html", "ledger")}
    return json.dumps(told, ensure_ascii=False)


def name_is_shown_and_harmless(text: str) -> Callable[[Reply], None]:
    def check(reply: Reply) -> None:
        html = reply.value["html"]
        assert "<script" not in html and "<img" not in html
        assert not re.search(r"<[^>]*onmouseover", html)
        assert reply.value["verdict"][0] in ("trust", "careful")
        rows = csv_names(text)
        assert not any(r[:1] in "=+-@" for r in rows if r)

    return check


def csv_names(text: str) -> list[str]:
    """Names in the data of a figure whose runs are called so."""
    fit = named(text)
    figure = FIGURES["loss-compute"].draw(figure_inputs(ScalingLaw.from_fit(fit)))
    table = figure_table(figure, fit.points.run)
    return [r["name"] for r in csv.DictReader(io.StringIO(table)) if r["kind"] == "point"]


def bounds(**ends: tuple[float, float]) -> Any:
    interval = make_fit().interval
    return dataclasses.replace(interval, bounds={**interval.bounds, **ends})


FITS: dict[str, tuple[dict[str, Any], tuple[str, ...]]] = {
    # changes, and the verdicts that may come of them
    "no bootstrap draws": ({"draws": np.empty((0, 5))}, ("trust", "careful")),
    "no intervals of parameters": (
        {"interval": dataclasses.replace(make_fit().interval, bounds={})},
        ("trust", "careful"),
    ),
    "one-sided above": ({"interval": bounds(E=(0.5, math.inf))}, ("trust", "careful")),
    "one-sided below": ({"interval": bounds(A=(0.0, 30.0))}, ("trust", "careful")),
    "unbounded exponent": ({"interval": bounds(a=(-math.inf, math.inf))}, ("trust", "careful")),
    "bounds that are no numbers": (
        {"interval": bounds(E=(math.nan, math.nan), a=(math.nan, math.nan))},
        ("trust", "careful"),
    ),
    "no quantile": (
        {"interval": dataclasses.replace(make_fit().interval, quantile=None)},
        ("trust", "careful", "refuse"),
    ),
    "level 99.9%": (
        {"interval": dataclasses.replace(make_fit().interval, level=0.999)},
        ("trust", "careful"),
    ),
    "no noise": ({"noise": 0.0}, ("trust", "careful")),
    "no checks at all": (
        {"holdout": None, "cross_checks": (), "conventions": (), "data": {}, "exponents": {}},
        ("trust", "careful"),
    ),
    "no shapes": ({"points": plain_points(), "recipe": {}}, ("trust", "careful")),
    "E zero": ({"theta": {**THETA, "E": 0.0}, "status": "at_bound"}, ("careful", "refuse")),
    "entropy above every loss": ({"data": {"entropy": 9.0}}, ("trust", "careful")),
    "negative exponent interval": (
        {"interval": bounds(a=(-0.0602, -0.0394))},
        ("trust", "careful"),
    ),
    "kappa missing": ({"kappa": None}, ("refuse",)),
    "kappa infinite": ({"kappa": math.inf}, ("refuse",)),
    "kappa not a number": ({"kappa": math.nan}, ("refuse",)),
    "kappa of one budget": ({"kappa": 2.4e3}, ("refuse",)),
    "ill conditioned": ({"status": "ill_conditioned", "kappa": 250.0}, ("refuse",)),
    "never converged": ({"status": "max_iterations"}, ("refuse",)),
    "a serious note": (
        {"notes": (Note(code="x", severity="serious", message="All runs are copies. Stop."),)},
        ("refuse",),
    ),
    "compute range of one budget": (
        {"range": {**make_fit().range, "flops": Span(low=1e12, high=1e12)}},
        ("trust", "careful"),
    ),
}


def fit_is_told(verdicts: tuple[str, ...]) -> Callable[[Reply], None]:
    def check(reply: Reply) -> None:
        content = reply.value
        verdict, reason = content["verdict"]
        assert verdict in verdicts and reason.endswith(".")
        text = words_of(content)
        wrong = re.search(r"\b(nan|inf|None|Infinity|NaN)\b.{0,40}", text)
        assert wrong is None, wrong[0]
        refused = verdict == "refuse"
        assert content["refused"] == refused
        if refused:
            assert content["answers"] is None
            assert "good" not in {grade for grade, _ in content["checks"]}
            assert "N^*$ and $D^*$ minimise" not in text and "python -m sweep" not in text
            assert "No recommendation." in text
        assert "Infinity" not in json.dumps(content["sections"], allow_nan=False)

    return check


def sealed(folder: Path, change: Callable[[dict[str, Any]], object], which: str) -> Any:
    """A ledger with one good forecast and one whose document was changed."""
    source = ScalingLaw.from_fit(make_fit(source={"hash": "sha256:1"}))
    for name in ("good", "odd"):
        question = Question(source=source, flops=1e14)
        forecast = seal(folder, name, question, answer(question))
        score_loss(folder, name, forecast.expected.loss)
    path = folder / f"odd{which}"
    changed = change(json.loads(path.read_text()))
    path.write_bytes(changed if isinstance(changed, bytes) else json.dumps(changed).encode())
    ledger = read_ledger(folder)
    fit = make_fit(source={"hash": "sha256:1"})
    return {**pages(fit, ledger=ledger), "ledger": ledger}


def update(**changes: Any) -> Callable[[dict[str, Any]], object]:
    return lambda document: {**document, **changes}


def deep(key: str, **changes: Any) -> Callable[[dict[str, Any]], object]:
    return lambda document: {**document, key: {**document[key], **changes}}


def without(key: str) -> Callable[[dict[str, Any]], object]:
    return lambda document: {k: v for k, v in document.items() if k != key}


def cut(document: dict[str, Any]) -> bytes:
    return json.dumps(document).encode()[:200]


LEDGERS: dict[str, tuple[str, Callable[[dict[str, Any]], object], str]] = {
    "half a file": (".json", cut, "unreadable"),
    "empty file": (".json", lambda d: b"", "unreadable"),
    "binary": (".json", lambda d: bytes(range(256)), "unreadable"),
    "UTF-16": (".json", lambda d: json.dumps(d).encode("utf-16"), "unreadable"),
    "a list": (".json", lambda d: [d], "unreadable"),
    "null": (".json", lambda d: None, "unreadable"),
    "newer major": (".json", update(schema="isoflop.forecast/9"), "unreadable"),
    "other schema": (".json", update(schema="isoflop.fit/1"), "unreadable"),
    "no hash": (".json", without("hash"), "unreadable"),
    "no answer": (".json", without("answer"), "unreadable"),
    "answer null": (".json", update(answer=None), "unreadable"),
    "fit null": (".json", update(fit=None), "unreadable"),
    "run a list": (".json", update(run=[1]), "unreadable"),
    "sealed a number": (".json", update(sealed=12), "unreadable"),
    "sealed no time": (".json", update(sealed="yesterday"), "unreadable"),
    "loss as text": (".json", deep("expected", loss="1.0"), "unreadable"),
    "loss null": (".json", deep("expected", loss=None), "unreadable"),
    "interval reversed": (".json", deep("expected", low=9.0, high=1.0), "unreadable"),
    "level above one": (".json", deep("expected", level=90), "unreadable"),
    "loss infinite": (".json", deep("expected", high=math.inf), "unreadable"),
    "loss changed": (".json", deep("expected", high=99.0), "altered"),
    "name with markup": (".json", update(name="#panic() <script>"), "altered"),
    "half an outcome": (".outcome.json", cut, "unreadable"),
    "measured null": (".outcome.json", update(measured=None), "unreadable"),
    "measured text": (".outcome.json", update(measured="2"), "unreadable"),
    "measured negative": (".outcome.json", update(measured=-1.0), "unreadable"),
    "outcome without late": (".outcome.json", without("late"), "unreadable"),
    "outcome of another": (".outcome.json", update(forecast="sha256:x"), "altered"),
    "a miss called a hit": (".outcome.json", update(measured=9.0, hit=True), "altered"),
}


def ledger_is_told(outcome: str) -> Callable[[Reply], None]:
    def check(reply: Reply) -> None:
        ledger = reply.value["ledger"]
        assert ledger.entry("good").status == "hit"
        assert len(ledger.counted) == 1
        assert "Of 1 forecast sealed" in words_of(reply.value)
        if outcome == "unreadable":
            assert [name for name, _ in ledger.unreadable] == ["odd.json"]
            assert "cannot be read: odd.json" in words_of(reply.value)
        else:
            assert ledger.entries[1 - ledger.entries.index(ledger.entry("good"))].status == outcome
        assert "<script>" not in reply.value["html"]

    return check


def asked(**given: Any) -> Any:
    fit = make_fit(**given)
    return answer(Question(source=ScalingLaw.from_fit(fit), flops=1e14, force=True)), fit


def exported(target: str, change: Callable[[Any], Any] = lambda a: a, **given: Any) -> str:
    found, fit = asked(**given)
    return export(change(found), fit, target)


def with_shape(**changes: Any) -> Callable[[Any], Any]:
    return lambda a: dataclasses.replace(a, shape=dataclasses.replace(a.shape, **changes))


REFUSED_EXPORTS: dict[str, tuple[Callable[[Any], Any], dict[str, Any], tuple[str, ...]]] = {
    "a mixture": (with_shape(experts=4, top_k=2), {}, ("mixture of experts",)),
    "no rate": (lambda a: dataclasses.replace(a, lr=None), {}, ("no rule of learning rate",)),
    "no batch": (lambda a: dataclasses.replace(a, batch_tokens=None), {}, ("rate and batch",)),
    "no shape": (lambda a: a, {"points": plain_points(), "recipe": {}}, ("no shapes",)),
}
SOURCES = {
    "a line break": "x\nmodel_name: evil",
    "a yaml break": "x\u2028model_name: evil\u2029y: 1",
    "next line": "x\x85model_name: evil",
    "carriage return": "x\rmodel_name: evil",
    "form feed": "x\x0cimport os\x0b",
    "a very long name": "n" * 5000,
    "code": "'''\nraise SystemExit\n'''",
}


def export_is_one_document(target: str) -> Callable[[Reply], None]:
    def check(reply: Reply) -> None:
        text = reply.value
        if target == "litgpt":
            assert yaml.safe_load(text)["model_name"] == "isoflop"
        elif target == "hf":
            assert json.loads(text)["model_type"] == "llama"
        elif target == "nanogpt":
            values: dict[str, Any] = {}
            exec(text, values)
            assert values["n_layer"] == 3
        else:
            code = [line for line in text.splitlines() if not line.startswith("#")]
            assert [line for line in code if line][0].startswith("python -m scripts.base_train")

    return check


FOLDERS = {
    "a blank": "reports/a b",
    "quotes": 'reports/it\'s "so"',
    "a command": "reports/$(touch PWNED)`touch PWNED`;touch PWNED",
    "a redirect": "reports/a > b && c",
    "an option": "reports/x --config --law y",
    "unicode": "reports/é漢",
    "a glob": "reports/*?[a]~!#",
    "a very long one": "reports/" + "n" * 180,
}


def launched(folder: Path, name: str, broken: bool) -> list[str]:
    """The words that `isoflop` gets when a launch line is run in a shell."""
    script = '#!/bin/sh\nfor w in "$@"; do printf "%s\\n" "$w" >> seen; done\n'
    for command in ("isoflop", "python"):
        (folder / command).write_text(script)
        (folder / command).chmod(0o755)
    line = launch_line(f"isoflop query 1e14 --fit {shlex.quote(name)}")
    if broken:  # as the terminal prints it
        found, _ = asked()
        text = answer_text(found, line)
        rows = text[text.index("  isoflop query") :].split("\n\n")[0]
        line = rows
    done = subprocess.run(
        ["sh", "-c", line], cwd=folder, env={"PATH": f"{folder}:/usr/bin:/bin"}, capture_output=True
    )
    assert done.returncode == 0, done.stderr
    assert not (folder / "PWNED").exists()
    return (folder / "seen").read_text().splitlines()


def words_are(name: str) -> Callable[[Reply], None]:
    def check(reply: Reply) -> None:
        assert reply.value[:5] == ["query", "1e14", "--fit", name, "--config"]

    return check


CASES = [
    *(
        Case(
            name=f"name: {kind}",
            run=lambda _, text=text: pages(named(text)),
            taken=name_is_shown_and_harmless(text),
        )
        for kind, text in NAMES.items()
    ),
    *(
        Case(
            name=f"fit: {kind}",
            run=lambda _, changes=changes: pages(make_fit(**changes)),
            taken=fit_is_told(verdicts),
        )
        for kind, (changes, verdicts) in FITS.items()
    ),
    *(
        Case(
            name=f"ledger: {kind}",
            run=lambda folder, change=change, which=which: sealed(folder, change, which),
            taken=ledger_is_told(outcome),
        )
        for kind, (which, change, outcome) in LEDGERS.items()
    ),
    *(
        Case(
            name=f"export to {target}: {kind}",
            run=lambda _, t=target, c=change, g=given: exported(t, c, **g),
            refused=words,
        )
        for kind, (change, given, words) in REFUSED_EXPORTS.items()
        for target in ("nanogpt", "nanochat", "litgpt", "hf")
    ),
    *(
        Case(
            name=f"export to {target} of {kind}",
            run=lambda _, t=target, s=source: exported(
                t, lambda a: dataclasses.replace(a, source=s), recipe=RECIPE
            ),
            taken=export_is_one_document(target),
        )
        for kind, source in SOURCES.items()
        for target in ("nanogpt", "nanochat", "litgpt", "hf")
    ),
    *(
        Case(
            name=f"launch {'as printed ' if broken else ''}from {kind}",
            run=lambda folder, n=name, b=broken: launched(folder, n, b),
            taken=words_are(name),
        )
        for kind, name in FOLDERS.items()
        for broken in (False, True)
    ),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_a_hostile_report_or_export_has_its_right_outcome(case: Case, tmp_path: Path) -> None:
    check_outcome(case, tmp_path)


def test_there_are_enough_cases() -> None:
    assert len(CASES) >= 40
    assert len({case.name for case in CASES}) == len(CASES)
