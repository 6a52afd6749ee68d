"""Every note that the code can give is explained, at the command line and on the page."""

import ast
import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from fit.cli.main import main
from fit.errors import QueryError
from fit.note_codes import NOTES, PARTS, QUESTIONS, explanation, page
from fit.query.warnings import OF_THE_LAW, UNIDENTIFIED
from fit.verdict import DECISIVE, OF_THE_DESCRIPTION, WIDENED, Note, Verdict

ROOT = Path(__file__).parents[2]
MAKERS = {"Note": None, "_note": 0, "_serious": 0, "_refusal_note": None}
"""Functions that make a note, with the place of the code among their arguments, else by name."""
COMPUTED = {
    ("fit/diagnostics/notes.py", "f'few_{name}'"): {"few_params", "few_tokens"},
    ("fit/diagnostics/residuals.py", "code"): {"trend", "trend_shape", "trend_tuning"},
    ("fit/comparison/compare.py", "code"): {"other_data"},  # the default of `_refusal_note`
}
"""Codes that are no literals: by file and expression, their values."""


def given_codes() -> set[str]:
    """The codes of every call that makes a note, read from the source."""
    codes: set[str] = set()
    for path in sorted((ROOT / "fit").rglob("*.py")) + sorted((ROOT / "sweep").rglob("*.py")):
        name = path.relative_to(ROOT).as_posix()
        for call in ast.walk(ast.parse(path.read_text())):
            if not (isinstance(call, ast.Call) and isinstance(call.func, ast.Name)):
                continue
            if call.func.id not in MAKERS:
                continue
            place = MAKERS[call.func.id]
            code = next((k.value for k in call.keywords if k.arg == "code"), None)
            if code is None and place is not None:
                code = call.args[place]
            if isinstance(code, ast.Constant):
                codes.add(code.value)
            elif code is not None and not (isinstance(code, ast.Name) and is_passed_on(path, call)):
                codes |= COMPUTED[name, ast.unparse(code)]
    return codes | set().union(*COMPUTED.values())


def is_passed_on(path: Path, call: ast.Call) -> bool:
    """Whether a call stands in a function that has the code as its argument."""
    for function in ast.walk(ast.parse(path.read_text())):
        if isinstance(function, ast.FunctionDef) and function.name in MAKERS:
            if function.lineno <= call.lineno <= (function.end_lineno or 0):
                return True
    return False


def test_every_code_that_a_note_can_have_is_explained_and_no_other():
    assert given_codes() == set(NOTES)


def test_the_source_is_really_read():
    codes = given_codes()
    assert {"extrapolates", "few_tokens", "trend_tuning", "other_flops", "price_assumed"} <= codes
    assert len(codes) > 60


def test_sets_of_codes_name_notes_that_there_are():
    assert {*OF_THE_LAW, *UNIDENTIFIED, *DECISIVE, *OF_THE_DESCRIPTION, *WIDENED} <= set(NOTES)


def test_an_entry_has_three_sentences_and_a_part():
    for code, entry in {**NOTES, **QUESTIONS}.items():
        assert entry.about in PARTS
        assert code == code.lower() and code.replace("_", "").isalpha()
        for text in (entry.seen, entry.why, entry.todo):
            assert text[0].isupper() and len(text) < 420, code


def test_the_page_is_written_from_the_entries():
    assert (ROOT / "docs" / "notes.md").read_text() == page()
    assert all(f"### `{code}`" in page() for code in (*NOTES, *QUESTIONS))


@pytest.mark.parametrize("name", ["extrapolates", "EXTRAPOLATES", "[extrapolates]"])
def test_a_note_is_explained_by_the_code_as_it_is_printed(name):
    shown = CliRunner().invoke(main, ["explain", name])
    assert shown.exit_code == 0
    entry = NOTES["extrapolates"]
    for text in (entry.seen, entry.why, entry.todo):
        assert text in " ".join(shown.stdout.split())
    document = json.loads(CliRunner().invoke(main, ["explain", name, "--json"]).stdout)
    assert [n["code"] for n in document["notes"]] == ["extrapolates"]


def test_without_a_name_all_are_listed_in_eighty_columns():
    shown = CliRunner().invoke(main, ["explain"]).stdout
    assert all(code in shown for code in (*NOTES, *QUESTIONS))
    assert max(map(len, shown.splitlines())) <= 80
    assert len(json.loads(CliRunner().invoke(main, ["explain", "--json"]).stdout)["notes"]) > 60


def test_an_unknown_note_names_those_near_it():
    with pytest.raises(QueryError, match="near it are outlier, outliers"):
        explanation("outlyer")
    refused = CliRunner().invoke(main, ["explain", "nonsense"])
    assert refused.exit_code == 1 and refused.stderr.count("\n") == 1


def test_no_sentence_is_said_twice_and_the_decisive_comes_first():
    twice = ("warning", "trend", "It bends. Fit less.")
    decides = ("warning", "misfit", "It misses. Fit more.")
    rows = [("info", "memory", "Room."), twice, decides, twice, ("warning", "preset", "A law.")]
    notes = [Note(code=c, severity=s, message=m) for s, c, m in rows]
    verdict = Verdict(verdict="careful", reason="It misses.", message="It misses. Fit more.")
    ranked = verdict.ranked(notes)
    assert [(n.code, n.message) for n in ranked] == [
        ("misfit", "Fit more."),
        ("trend", "It bends. Fit less."),
        ("preset", "A law."),
        ("memory", "Room."),
    ]
    alone = Verdict(verdict="careful", reason="A law.", message="A law.")
    assert "preset" not in [n.code for n in alone.ranked(notes)]


def test_under_an_answer_stand_three_notes_and_the_others_are_counted():
    limits = "--memory 8GB --serve-tokens 1T --device h100 --unique-tokens 5B".split()
    args = ["query", "1e21", "--law", "besiroglu2024", *limits]
    short, whole = (CliRunner().invoke(main, [*args, *more]).stdout for more in ([], ["--notes"]))

    def count(text):
        return sum(line.split()[:1] in (["warning"], ["info"]) for line in text.splitlines())

    document = json.loads(CliRunner().invoke(main, [*args, "--json"]).stdout)
    codes = [note["code"] for note in document["warnings"]]
    assert count(short) == 3 and count(whole) == len(codes) > 4
    assert f"{len(codes) - 3} more notes: --notes" in short and "--notes" not in whole
    assert all(f"[{code}]" in whole for code in codes)
