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
from fit.figures import draw_figures
from fit.hypertext import hypertext
from fit.sheet import sheet
from fit.source import Source
from fit.store import read_fit, write_atomically

TEMPLATE = Path(__file__).with_name("report.typ")


FORMATS = ("pdf", "html")


def write_report(folder: Path, *, form: str = "pdf") -> Path:
    """Write a report and its figures into a report folder from its `fit.json`.

    Args:
        folder: Report folder, or the `fit.json` in it.
        form: `pdf` writes `report.pdf`, `html` one self-contained `report.html`; either way
            `figures/` gets every figure as PDF, as SVG and as CSV of the data drawn.

    Returns:
        Path of the report.

    Raises:
        RecordError: No readable fit there, or the folder cannot be written to.
        ReportError: matplotlib or typst is not installed, or the pages cannot be set.
    """
    _need("matplotlib", *(("typst",) if form == "pdf" else ()))
    source = Source.from_fit(read_fit(folder))
    folder = folder.parent if folder.is_file() else folder
    made = draw_figures(source)
    words = sheet(source, folder=place_of(folder), drawn=tuple(made))
    if form == "html":
        pages = hypertext(words, {n: d.svg for n, d in made.items()}).encode()
    else:
        pages = typeset(words, {f"{n}.pdf": d.pdf for n, d in made.items()})
    for name, drawn in made.items():
        for suffix, content in (("pdf", drawn.pdf), ("svg", drawn.svg), ("csv", drawn.csv)):
            write_atomically(folder / "figures" / f"{name}.{suffix}", content)
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
