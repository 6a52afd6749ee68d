"""A fit as a PDF to send to a colleague: the answer first, then what it rests on.

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
from fit.figures import draw_figures
from fit.laws import law
from fit.sheet import sheet
from fit.source import Source
from fit.store import read_fit, write_atomically

TEMPLATE = Path(__file__).with_name("report.typ")


def write_report(folder: Path) -> Path:
    """Write `report.pdf` and `figures/*.{pdf,svg,csv}` into a report folder from its `fit.json`.

    Args:
        folder: Report folder, or the `fit.json` in it.

    Returns:
        Path of the PDF.

    Raises:
        RecordError: No readable fit there, or the folder cannot be written to.
        QueryError: The law splits no budget, which is what the pages are about.
        ReportError: matplotlib or typst is not installed, or the pages cannot be set.
    """
    _need("matplotlib", "typst")
    source = Source.from_fit(read_fit(folder))
    source.law.check_split()
    folder = folder.parent if folder.is_file() else folder
    place = _place(folder)
    made = draw_figures(source)
    pages = typeset(sheet(source, folder=place), {f"{n}.pdf": d.pdf for n, d in made.items()})
    for name, drawn in made.items():
        for suffix, content in (("pdf", drawn.pdf), ("svg", drawn.svg), ("csv", drawn.csv)):
            write_atomically(folder / "figures" / f"{name}.{suffix}", content)
    path = folder / "report.pdf"
    write_atomically(path, pages)
    return path


def write_report_if_split(folder: Path) -> str:
    """The report's path, or why a law that splits no budget has none.

    Raises:
        RecordError, ReportError: As `write_report`.
    """
    fit = read_fit(folder)
    family = law(fit.law)
    if family.target != "loss" or family.further:
        return f"none: its pages split budgets, and the law '{family.name}' alone does not"
    return str(write_report(folder))


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
        words = json.dumps({**data, "figures": sorted(Path(f).stem for f in figures)})
        (root / "data.json").write_text(words, encoding="utf-8")
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


def _place(folder: Path) -> str:
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
