"""The set pages, measured: how full they are, rows left alone, commands that can be copied."""

import dataclasses
import io
import re
import shlex
import shutil
import subprocess

import numpy as np
import pytest

from fit.allocation.scaling_law import ScalingLaw
from fit.report.markup import latex_document
from fit.report.render import typeset
from fit.report.summary_page import report_content
from fit.report.tables import dropped
from tests.fit.builders import make_fit
from tests.fit.report.conftest import MOVED

TOP, BOTTOM, HEIGHT = 20, 277, 297
"""Of the text on an A4 page [mm from its top]."""
pdf_reader = pytest.mark.skipif(not shutil.which("pdftotext"), reason="needs pdftotext of poppler")
latex = pytest.mark.skipif(not shutil.which("pdflatex"), reason="needs pdflatex")


def content(figures, **changes):
    fit = make_fit(influence=(MOVED,), **changes)
    shown = {n: f.shown for n, f in figures.items()}
    return report_content(ScalingLaw.from_fit(fit), folder="reports/synthetic", drawn=shown)


def with_runs(data, count):
    """The content with so many rows in its table of runs."""
    *sections, runs = data["sections"]
    block = runs["blocks"][-1]
    rows = (block["rows"] * (1 + count // len(block["rows"])))[:count]
    blocks = [*runs["blocks"][:-1], {**block, "rows": rows}]
    return {**data, "sections": [*sections, {**runs, "blocks": blocks}]}


def largest_gap(png):
    """The largest part of a page's text area, in height, with nothing on it."""
    from matplotlib.image import imread

    page = imread(io.BytesIO(png))[..., :3].min(axis=(1, 2))
    first, last = (round(len(page) * mm / HEIGHT) for mm in (TOP, BOTTOM))
    inked = np.flatnonzero(page[first:last] < 0.97)
    return np.diff([0, *inked, last - first]).max() / (last - first)


@pytest.mark.parametrize("left_out", [(), ("holdout",), ("tokens",)])
def test_no_page_but_the_last_is_more_than_a_third_empty(figures, drawn, left_out, monkeypatch):
    import typst

    pages, compiled = [], typst.compile

    def as_images(*given, **more):
        pages.extend(compiled(*given, **more, format="png", ppi=30))
        return b""

    monkeypatch.setattr(typst, "compile", as_images)
    typeset(content({n: f for n, f in figures.items() if n not in left_out}), drawn)
    gaps = [largest_gap(page) for page in pages]
    assert len(gaps) > 4
    assert max(gaps[:-1]) <= 1 / 3, gaps


def text_of(pdf):
    command = ["pdftotext", "-layout", "-", "-"]
    return subprocess.run(command, input=pdf, capture_output=True, check=True).stdout.decode()


@pdf_reader
@pdf_reader
def test_the_price_curve_stands_on_page_2_and_the_appendix_begins_after_it(figures, drawn):
    data = content(figures)
    data["checks"].append(["info", "a check of four lines, as a sealed forecast has " * 4])
    pages = text_of(typeset(data, drawn)).split("\f")
    assert "Figure 2" in pages[1] and "APPENDIX" in pages[2]


@pytest.mark.parametrize("count", [7, 40, 90])
def test_no_row_of_the_runs_stands_alone_at_the_foot_of_a_page(figures, drawn, count):
    pages = text_of(typeset(with_runs(content(figures), count), drawn)).split("\f")[:-1]
    rows = [len(re.findall(r"^ *w\d+-d2-t\S+ .*%? *$", page, re.M)) for page in pages]
    at = next(i for i, page in enumerate(pages) if "those farthest from the law first" in page)
    assert rows[at] >= min(count, 5), rows
    assert pages[-1].replace(" ", "").strip().endswith(f"{len(pages)}/{len(pages)}")


@pdf_reader
def test_commands_copied_from_the_pages_are_the_commands(figures, drawn):
    data = content(figures)
    text = text_of(typeset(data, drawn))
    blocks = [b for s in (*data["brief"], *data["sections"]) for b in s["blocks"]]
    codes = [b["code"] for b in blocks if b.get("code")]
    assert len(codes) >= 4
    words = text.replace("\\\n", " ").split()
    for code in codes:
        wanted = code.replace("\\\n", " ").split()
        assert any(words[i : i + len(wanted)] == wanted for i in range(len(words))), code
        assert shlex.split(" ".join(wanted)) == shlex.split(code)


@latex
def test_the_latex_report_compiles_and_keeps_inside_its_margins(figures, drawn, tmp_path):
    data = with_runs(
        content(figures, data={"name": "x", "hash": f"sha256:{'0e78b43e3566' * 5}"}), 56
    )
    (tmp_path / "figures").mkdir()
    for file, pdf in drawn.items():
        (tmp_path / "figures" / file).write_bytes(pdf)
    (tmp_path / "report.tex").write_text(latex_document(data))
    command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "report.tex"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, check=False)
    log = done.stdout.decode(errors="replace")
    assert done.returncode == 0, log[-2000:]
    wide = [float(pt) for pt in re.findall(r"Overfull \\hbox \(([\d.]+)pt", log)]
    assert max(wide, default=0) < 5, wide
    assert (tmp_path / "report.pdf").read_bytes().startswith(b"%PDF")


def test_runs_left_out_for_one_reason_are_one_row():
    out = (("a", "no loss"), ("b", "diverged"), ("c", "diverged"), ("d", "diverged"))
    rows = dropped(dataclasses.replace(make_fit(), runs_dropped=out))
    assert rows == [["b and 2 others", "diverged"], ["a", "no loss"]]
