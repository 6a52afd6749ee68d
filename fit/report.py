"""A fit as a PDF or one HTML file to send to a colleague: the answer first, then the rest.

The report is a function of `fit.json`: the same fit gives the same bytes. Figures are matplotlib's,
as vectors; typst sets the pages with the fonts that it carries.
"""

from __future__ import annotations

import importlib.util
import json
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fit.errors import ReportError
from fit.figures import Drawn, draw_figures, draw_shapes
from fit.hypertext import hypertext
from fit.ledger import read_ledger
from fit.modelplots import models_table
from fit.prices import Asked
from fit.shapesheet import shape_sheet, shapes_of
from fit.sheet import sheet
from fit.source import Source
from fit.store import load, read_fit, write_atomically

TEMPLATE = Path(__file__).with_name("report.typ")


FORMATS = ("pdf", "html")
RECORDS = "*/record.json"
LEDGER = "ledger"
"""Folder of sealed forecasts, beside those of the reports."""


def write_any(
    folder: Path, *, out: Path | None = None, form: str = "pdf", asked: Asked | None = None
) -> Path:
    """Write the report of a fit, or of a folder of runs that none is made of.

    Args:
        folder: Report folder, its `fit.json`, or a folder of run records.
        out: Where a report on runs goes; None is `reports/` and the folder's name.
        form: As `write_report`.
        asked: As `write_report`.

    Raises:
        RecordError, FitError, QueryError, ReportError: As those that it calls.
    """
    if not folder.is_dir() or (folder / "fit.json").exists() or not any(folder.glob(RECORDS)):
        return write_report(folder, form=form, asked=asked)
    return write_shape_report(folder, out or Path("reports") / folder.resolve().name, form=form)


def write_report(folder: Path, *, form: str = "pdf", asked: Asked | None = None) -> Path:
    """Write a report and its figures into a report folder from its `fit.json`.

    Args:
        folder: Report folder, or the `fit.json` in it.
        form: `pdf` writes `report.pdf`, `html` one self-contained `report.html`; either way
            `figures/` gets every figure as PDF, as SVG and as CSV of the data drawn.
        asked: Charts and prices that are asked for beside the fit.

    Returns:
        Path of the report.

    Raises:
        RecordError: No readable fit there, or the folder cannot be written to.
        QueryError: What is asked for cannot be meant.
        ReportError: matplotlib or typst is not installed, or the pages cannot be set.
    """
    _need("matplotlib", *(("typst",) if form == "pdf" else ()))
    source = Source.from_fit(read_fit(folder))
    folder = folder.parent if folder.is_file() else folder
    made = draw_figures(source, asked)
    ledger = read_ledger(folder.resolve().parent / LEDGER)
    drawn = tuple(made)
    words = sheet(source, folder=place_of(folder), drawn=drawn, asked=asked, ledger=ledger)
    return _written(folder, words, made, form)


def write_shape_report(runs: Path, folder: Path, *, form: str = "pdf") -> Path:
    """Write a report on runs of several shapes that no law is fitted to.

    Args:
        runs: Folder of run records with losses by skill.
        folder: Where the report goes.
        form: As `write_report`.

    Returns:
        Path of the report.

    Raises:
        RecordError: The runs cannot be read, or the folder cannot be written to.
        FitError: They have no losses by skill over several shapes.
        ReportError: matplotlib or typst is not installed, or the pages cannot be set.
    """
    _need("matplotlib", *(("typst",) if form == "pdf" else ()))
    table = load(runs)
    shapes = shapes_of(table)
    words = shape_sheet(folder.resolve().name, table, shapes)
    return _written(folder, words, draw_shapes(shapes), form)


def _written(folder: Path, words: Mapping[str, Any], made: Mapping[str, Drawn], form: str) -> Path:
    """Set the pages and write them with their figures."""
    if form == "html":
        pages = hypertext(words, {n: d.svg for n, d in made.items()}).encode()
    else:
        pages = typeset(words, {f"{n}.pdf": d.pdf for n, d in made.items()})
    for name, drawn in made.items():
        for suffix, content in (("pdf", drawn.pdf), ("svg", drawn.svg), ("csv", drawn.csv)):
            write_atomically(folder / "figures" / f"{name}.{suffix}", content)
    if "models" in made:
        write_atomically(folder / "figures" / "models-sources.csv", models_table())
    path = folder / f"report.{form}"
    write_atomically(path, pages)
    return path


def typeset(data: Mapping[str, Any], figures: Mapping[str, bytes]) -> bytes:
    """Set the pages of a report.

    Args:
        data: What `sheet` returns.
        figures: File names and contents.

    Raises:
        ReportError: The pages cannot be set.
    """
    import typst

    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        (root / TEMPLATE.name).write_text(TEMPLATE.read_text(encoding="utf-8"), encoding="utf-8")
        (root / "data.json").write_text(json.dumps(data), encoding="utf-8")
        for file, content in figures.items():
            (root / file).write_bytes(content)
        try:
            pages = typst.compile(str(root / TEMPLATE.name), root=name, ignore_system_fonts=True)
        except RuntimeError as error:
            raise ReportError(
                f"typst could not set the report: {str(error).splitlines()[0]}. "
                "The fit itself is whole; please report this with its fit.json."
            ) from error
    return bytes(pages)


def place_of(folder: Path) -> str:
    """The folder as its report names it: reports/NAME, or nothing where it lies elsewhere.

    The same fit gives the same bytes wherever it lies, so no path of this machine stands in them.
    """
    whole = folder.resolve()
    return f"reports/{whole.name}" if whole.parent.name == "reports" else ""


def _need(*packages: str) -> None:
    """Refuse where an optional package is missing."""
    missing = [p for p in packages if importlib.util.find_spec(p) is None]
    if missing:
        raise ReportError(
            f"a report needs {' and '.join(missing)}, not installed here. "
            "Run: pip install 'isoflop[report]', or fit with --no-report."
        )
