"""The report as Markdown and LaTeX: the numbers of the other doors, names that break neither."""

import dataclasses
import json
import re

import pytest
from click.testing import CliRunner
from markdown_it import MarkdownIt

from fit.allocation.scaling_law import ScalingLaw
from fit.cli.main import main
from fit.laws.families import LAWS, law
from fit.quantities import short, three_digits
from fit.report.markup import (
    LatexDialect,
    MarkdownDialect,
    latex_document,
    latex_maths,
    latex_text,
    markdown_page,
    numbers,
    rich,
)
from fit.report.render import html_page
from fit.report.summary_page import report_content
from fit.results import write_fit
from fit.verdict import Note
from tests.fit.builders import make_fit, make_points

HOSTILE = 'a"b\\c{d}$e$#f%g&h_i^j~k<l>|m `n` \\end{verbatim} é 漢 --o [p](q) *r*'
QUESTIONS = (
    ("--flops", "1e13"), ("--flops", "1e14"), ("--flops", "3e12"), ("--flops", "5.5e13"),
    ("--flops", "1e14", "--max-params", "200k"), ("--flops", "1e14", "--min-params", "1M"),
    ("--flops", "1e14", "--params", "300k"), ("--flops", "1e14", "--tokens", "30M"),
    ("--flops", "1e14", "--max-tokens", "10M"), ("--flops", "1e14", "--max-ratio", "20"),
    ("--flops", "1e14", "--min-ratio", "100"), ("--flops", "1e14", "--memory", "400kB"),
    ("--flops", "1e14", "--serve-tokens", "1e9"), ("--flops", "1e14", "--unique-tokens", "1M"),
    ("--dollars", "0.0001", "--price", "2", "--device", "h100"), ("--loss", "1.6"),
    ("--hours", "0.00005", "--device", "a100"), ("--loss", "1.7", "--max-params", "500k"),
    ("--deadline", "0.00002", "--devices", "2", "--device", "h100"), ("--flops", "2e14"),
)  # fmt: skip


def content(**given):
    source = ScalingLaw.from_fit(make_fit(**given))
    return report_content(source, drawn={"loss-compute": ("runs",), "fit": ("runs",)})


def hostile():
    points = make_points()
    return content(
        name=HOSTILE,
        points=dataclasses.replace(points, run=(HOSTILE, *points.run[1:])),
        notes=(Note(code="odd", severity="warning", message=HOSTILE),),
        runs_dropped=((HOSTILE, HOSTILE),),
    )


def balanced(text):
    """Check that environments, braces and dollars of a LaTeX text outside verbatim are balanced."""
    plain = re.sub(r"(?s)\\begin\{verbatim\}.*?\\end\{verbatim\}", "", text)
    opened = []
    for kind, name in re.findall(r"\\(begin|end)\{([a-z*]+)\}", plain):
        if kind == "begin":
            opened.append(name)
        else:
            assert opened.pop() == name
    assert opened == []
    bare = re.sub(r"\\[\\{}$&#%_]", "", plain)
    assert bare.count("$") % 2 == 0
    depth = 0
    for letter in bare:
        depth += {"{": 1, "}": -1}.get(letter, 0)
        assert depth >= 0
    assert depth == 0


@pytest.mark.parametrize("made", [content, hostile])
def test_latex_is_balanced_whatever_a_run_is_called(made):
    text = latex_document(made())
    balanced(text)
    assert all(ord(c) < 127 or 0xA1 <= ord(c) <= 0xFF for c in text)
    for row in re.findall(r"(?m)^(.*) \\\\$", text):
        cells = re.sub(r"\\&", "", row).count("&") + 1
        assert cells in (2, 3, 4, 5, 7, 8), row
    preamble, body = text.split(r"\begin{document}")
    assert "upquote" in preamble and body.rstrip().endswith(r"\end{document}")


def test_every_letter_that_latex_reads_as_a_command_is_escaped():
    assert latex_text("50% of a_b & {c} #1 $x^2~") == (
        r"50\% of a\_b \& \{c\} \#1 \$x\textasciicircum{}2\textasciitilde{}"
    )
    assert latex_text("--flops 'a' \\b") == (
        r"{-}{-}flops \textquotesingle{}a\textquotesingle{} \textbackslash{}b"
    )
    assert latex_text("漢×é") == r"[U+6F22]$\times$é"


def test_mathematics_is_written_for_latex():
    assert latex_maths("N^*").replace(" ", "") == r"N^{\ast}"
    assert latex_maths("2.1 times 10^12") == r"2.1 \times  10^{12}"
    assert latex_maths("N^* ~ C^a").replace(" ", "") == r"N^{\ast}\simC^{a}"
    tidy = latex_maths("(N_c/N)^(alpha_N/alpha_D)").replace(" ", "")
    assert tidy == r"(N_{c}/N)^{\alpha_{N}/\alpha_{D}}"
    for name in LAWS:
        balanced(rich(LatexDialect(), f"${law(name).formula}$"))


def test_markdown_tables_have_as_many_cells_as_heads_and_names_make_no_markup():
    page = markdown_page(hostile())
    tokens = MarkdownIt("commonmark").enable("table").parse(page)
    widths = []
    for token in tokens:
        if token.type == "tr_open":
            widths.append(0)
        elif token.type in ("td_open", "th_open"):
            widths[-1] += 1
        elif token.type == "table_close":
            assert len(set(widths)) == 1
            widths = []
        if token.type == "inline":
            kinds = {child.type for child in token.children}
            assert not {"html_inline", "link_open"} & kinds, token.content
    rows = [line for line in page.splitlines() if line.startswith("|")]
    assert rows and not any(t.type == "html_block" for t in tokens)


def test_commands_can_be_copied_from_both():
    made = content()
    code = next(
        b["code"] for s in made["brief"] for b in s["blocks"] if "--config" in b.get("code", "")
    )
    for text in (markdown_page(made), latex_document(made)):
        assert re.sub(r" ?\\?\n +", " ", text).count(code) == 1
        assert "\N{SOFT HYPHEN}" not in text and "\N{ZERO WIDTH SPACE}" not in text


def test_figures_are_linked_as_files_beside_the_report():
    made = content()
    assert "![Figure 1](figures/loss-compute.svg)" in markdown_page(made)
    assert r"{figures/loss-compute.pdf}" in latex_document(made)


def test_the_same_fit_gives_the_same_bytes_in_every_text_format():
    for write in (markdown_page, latex_document):
        assert write(content()) == write(content())


@pytest.mark.parametrize("form", ["md", "tex"])
def test_twenty_questions_have_the_numbers_and_the_verdict_of_the_query(
    form, tmp_path, monkeypatch
):
    write_fit(tmp_path / "reports" / "pilot", make_fit(name="pilot"))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("fit.report.figures.FIGURES", {})
    assert len(QUESTIONS) >= 20
    for options in QUESTIONS:
        asked = [options[1], *options[2:]] if options[0] == "--flops" else options
        said = CliRunner().invoke(main, ["query", *asked, "--fit", "reports/pilot", "--json"])
        assert said.exit_code == 0, said.output
        reply = json.loads(said.stdout)
        made = CliRunner().invoke(main, ["report", "reports/pilot", "--format", form, *options])
        assert made.exit_code == 0, made.output
        page = (tmp_path / "reports" / "pilot" / f"report.{form}").read_text()
        assert f"{reply['verdict'].capitalize()}." in page
        for label, key, write in (
            ("Parameters $N", "params", short),
            ("Training tokens $D", "tokens", short),
            ("Tokens per parameter", "tokens_per_param", three_digits),
            ("Loss, the law", "loss", "{:.4f}".format),
            ("Loss, next run", "loss_next_run", "{:.4f}".format),
        ):
            row = next(li for li in page.splitlines() if li.lstrip("| ").startswith(label))
            cells = re.split(r" ?[|&] ?", row.strip("| ").removesuffix(r" \\"))
            number = reply[key]
            assert cells[-2].strip() == write(number["value"]), (options, row)
            ends = f"{write(number['low'])} to {write(number['high'])}"
            assert cells[-1].strip() == ends, (options, row)


def test_a_hash_is_no_power_of_ten_in_any_format():
    for words in ("sha256:edd78b43e3566b5", "sha256:12e34", "w16-t2e5x"):
        assert numbers(MarkdownDialect(), words) == words
        assert "times" not in numbers(LatexDialect(), words)
        fit = content(source={"path": "runs.csv", "hash": words})
        assert words in html_page(fit, {"loss-compute": b"<svg></svg>", "fit": b"<svg></svg>"})
    assert (
        numbers(MarkdownDialect(), "1.5e12 to 3e12")
        == r"$1.5 \times 10^{12}$ to $3 \times 10^{12}$"
    )
