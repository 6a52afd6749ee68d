"""A fit as a PDF to send to a colleague: the answer first, then what it rests on.

The report is a function of `fit.json`: the same fit gives the same bytes. Figures are matplotlib's,
as vectors; typst sets the pages with the fonts that it carries.
"""

from __future__ import annotations

import importlib.util
import io
import json
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fit import plots
from fit.errors import ReportError
from fit.laws import law
from fit.plots import Frontier
from fit.sheet import sheet
from fit.source import Source
from fit.store import read_fit, write_atomically

if TYPE_CHECKING:
    from matplotlib.figure import Figure

TEMPLATE = Path(__file__).with_name("report.typ")
STYLE: Mapping[str, Any] = {
    "font.family": "STIXGeneral",
    "mathtext.fontset": "stix",
    "font.size": 9.0,
    "axes.labelsize": 9.0,
    "xtick.labelsize": 8.5,
    "ytick.labelsize": 8.5,
    "legend.fontsize": 8.5,
    "legend.handlelength": 1.8,
    "pdf.fonttype": 42,
    "axes.unicode_minus": True,
    "text.usetex": False,
}
"""Type of the figures; Times-like, as the text around them. Fonts are embedded as outlines."""
WIDE = 6.6
"""Width of the text on paper [inches]; figures are drawn at that size."""


def write_report(folder: Path) -> Path:
    """Write `report.pdf` and `figures/*.pdf` into a report folder from its `fit.json`.

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
    made = draw_figures(source)
    pages = typeset(sheet(source), made)
    for name, content in made.items():
        write_atomically(folder / "figures" / name, content)
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


def draw_figures(source: Source) -> dict[str, bytes]:
    """Draw every figure of a report; file names and their PDF."""
    import matplotlib

    best = plots.frontier(source)
    style: Any = dict(STYLE)
    with matplotlib.rc_context(style):
        return {f"{name}.pdf": _pdf(draw(source, best)) for name, draw in FIGURES.items()}


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


def _need(*packages: str) -> None:
    """Refuse where an optional package is missing."""
    missing = [p for p in packages if importlib.util.find_spec(p) is None]
    if missing:
        raise ReportError(
            f"a report needs {' and '.join(missing)}, not installed here. "
            "Run: pip install 'isoflop[report]', or fit with --no-report."
        )


def _pdf(figure: Figure) -> bytes:
    """A figure as PDF without its date."""
    stream = io.BytesIO()
    figure.savefig(stream, format="pdf", metadata={"CreationDate": None})
    return stream.getvalue()


def _figure(height: float, width: float = WIDE) -> Figure:
    """An empty figure of a size in inches; independent of pyplot and of any screen."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")


def _loss_compute(source: Source, best: Frontier) -> Figure:
    figure = _figure(2.75)
    plots.loss_against_compute(figure.subplots(), source, best)
    return figure


def _optimum(source: Source, best: Frontier) -> Figure:
    figure = _figure(3.2)
    left, right = figure.subplots(1, 2)
    plots.optimum_against_compute(left, source, best, "params")
    plots.optimum_against_compute(right, source, best, "tokens")
    return figure


def _isoflop(source: Source, best: Frontier) -> Figure:
    figure = _figure(4.1)
    plots.isoflop_curves(figure.subplots(), source, best)
    return figure


def _tokens(source: Source, best: Frontier) -> Figure:
    figure = _figure(3.3)
    plots.loss_against_params(figure.subplots(), source)
    return figure


def _fit(source: Source, best: Frontier) -> Figure:
    figure = _figure(4.6, 5.6)
    upper, lower = figure.subplots(2, 1, height_ratios=(2.6, 1))
    plots.fit_against_measurement(upper, lower, source)
    return figure


def _residuals(source: Source, best: Frontier) -> Figure:
    assert source.fit is not None
    p = source.fit.points
    figure = _figure(2.2)
    against = {
        plots.N_LABEL: p.params,
        plots.D_LABEL: p.tokens,
        "Tokens per parameter D/N": p.tokens / p.params,
    }
    panels = figure.subplots(1, 3, sharey=True)
    for ax, (label, values) in zip(panels, against.items(), strict=True):
        plots.residuals_against_count(ax, source.fit, values, x=label)
    for ax in panels[1:]:
        ax.set_ylabel("")
    return figure


FIGURES: Mapping[str, Callable[[Source, Frontier], Figure]] = {
    "loss-compute": _loss_compute,
    "optimum": _optimum,
    "isoflop": _isoflop,
    "tokens": _tokens,
    "fit": _fit,
    "residuals": _residuals,
}
