"""Fits as a notebook uses them: `fit`, `read_fit`, and the methods of a `FittedLaw`.

`FittedLaw` is a `Fit` with everything that is asked of one in Python: predictions on arrays, text,
a figure, a table, a file. The methods compute nothing: each calls the function that the command
line calls. This module stands above the report and the query, which `fit.results` cannot import.
"""

from __future__ import annotations

import dataclasses
import html
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fit.allocation.scaling_law import ScalingLaw, identified_frontier
from fit.data.table import RunTable
from fit.errors import FitError, QueryError, ReportError, check_type
from fit.files import checked_path, write_atomically
from fit.fitting import FitOptions, fit_runs, fit_table, held_of
from fit.laws.families import law as family_of
from fit.quantities import interval_text, percent, power
from fit.query.predictions import Predictions, predict_many
from fit.results import Fit, loss_unit, write_fit
from fit.results import read_fit as read_plain_fit

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

WIDTH = 80
READING_OPTIONS = frozenset(
    "column unit where wide keep_failed cluster params flops heldout base hold".split()
)
"""Options of `fit` beside those of `FitOptions`: how the runs are read and what is held."""
PAIRS = frozenset(("column", "unit", "hold"))
TEXTS = frozenset("wide cluster params flops heldout base".split())
TONES = {"trust": "#1a7f37", "careful": "#9a6700", "refuse": "#b42318"}
"""Colours of the verdicts in a notebook: contrast of 4.5:1 and more on white."""
MOST_VALUES = 5
"""Lines of parameters in a `repr`."""
PLOTS = ("loss", "isoflop", "params", "surface", "residuals")


class Text(str):
    """Text that a notebook and an interactive prompt show with its line breaks."""

    __slots__ = ()

    def __repr__(self) -> str:
        return str(self)


@dataclass(frozen=True, kw_only=True, repr=False, eq=False)
class FittedLaw(Fit):
    """A fitted law: what `isoflop.fit` returns and `isoflop.read_fit` reads.

    Its fields are those of `Fit`: `theta`, `exponents`, `interval.bounds`, `verdict`, `notes`,
    `points`, ... Ask `isoflop.query(law, "1e21")` for the best model of a budget.
    """

    @cached_property
    def scaling_law(self) -> ScalingLaw:
        """What answers come from: the fit with its forecast and its ladder of shapes."""
        return ScalingLaw.from_fit(self)

    def predict(
        self, params: Any, tokens: Any, *, force: bool = False, **columns: float
    ) -> Predictions:
        """Predict the loss of models of N parameters trained on D tokens, with intervals.

        Args:
            params: N [parameters]: a number, text such as `7B`, or an array of them.
            tokens: D [tokens], likewise; the two are broadcast against each other.
            force: Insist on predictions whose verdict is `refuse`.
            **columns: Further columns of the law, such as `unique_tokens`, one number each.

        Returns:
            Arrays `loss`, `low` and `high` (confidence, of the law), `run_low` and `run_high`
            (prediction, of one run), `reach` and `verdict`.

        Raises:
            QueryError: A count is not positive, the shapes do not broadcast, or a column is missing
                or unknown.
            RefusedError: The verdict on a point is `refuse`, and `force` is not set.
        """
        return predict_many(self.scaling_law, params, tokens, force=force, **columns)

    def summary(self) -> Text:
        """The fit as `isoflop fit` prints it: verdict, parameters with intervals, checks, notes."""
        from fit.report.text import fit_text

        return Text(fit_text(self))

    def plot(self, ax: Axes | None = None, kind: str = "loss") -> Axes:
        """Draw a figure of the report on axes of yours.

        Args:
            ax: Axes of matplotlib; new ones unless given.
            kind: `loss` (against compute), `isoflop` (against N at equal budgets), `params`
                (against N at equal D), `surface` (contours over N and D) or `residuals`.

        Returns:
            The axes.

        Raises:
            QueryError: Another kind, or one that these runs do not allow.
            ReportError: matplotlib is not installed, or `ax` is no axes.
        """
        if not isinstance(kind, str) or kind not in PLOTS:
            raise QueryError(f"kind is {kind!r:.60}; known are {', '.join(PLOTS)}. Choose one.")
        ax = _axes(ax)
        from fit.report import check_plots, plots

        source = self.scaling_law
        best = identified_frontier(source)
        match kind:
            case "isoflop":
                return plots.isoflop_curves(ax, source, best)
            case "params":
                return plots.loss_against_params(ax, source)
            case "residuals":
                return check_plots.residuals(ax, self, self.points.flops, x=plots.C_LABEL)
            case "surface":
                if best is None:
                    raise QueryError(
                        "these runs do not determine where the loss is least at a budget, so that "
                        "no surface is drawn. Draw the runs: kind='loss'."
                    )
                return plots.loss_surface(ax, source, best)
        return plots.loss_against_compute(ax, source, best)

    def to_frame(self) -> pd.DataFrame:
        """The fitted runs, one a row: counts, loss, the law's loss there, residual, columns."""
        import numpy as np
        import pandas as pd

        p = self.points
        columns = {"run": p.run, "params": p.params, "tokens": p.tokens, "flops": p.flops}
        columns |= {"loss": p.loss, "fitted": p.loss / np.exp(p.residual)}
        columns |= {"residual": p.residual, "cluster": p.cluster.astype(int)}
        return pd.DataFrame({**p.columns, **columns})[[*columns, *p.columns]]

    def save(self, path: Path | str) -> Path:
        """Write the fit: to PATH where that ends in `.json`, else to PATH/fit.json; its path.

        `isoflop query --fit PATH`, `isoflop report PATH` and the service read what is written.

        Raises:
            RecordError: It cannot be written there.
        """
        target = checked_path(path)
        if target.suffix != ".json":
            return write_fit(target, self)
        write_atomically(target, self.to_json())
        return target

    @classmethod
    def load(cls, path: Path | str) -> FittedLaw:
        """Read a fit that `save` or `isoflop fit` wrote.

        Raises:
            RecordError: Missing, corrupt, foreign or of a newer major version.
        """
        return fitted_law(read_plain_fit(checked_path(path)))

    def __eq__(self, other: object) -> bool:
        """Whether both are the same document."""
        return isinstance(other, Fit) and self.to_json() == other.to_json()

    def __hash__(self) -> int:
        return hash((self.name, self.law, tuple(self.theta.items())))

    def __repr__(self) -> str:
        """The law in at most ten lines."""
        rows = [f"  {label:<9}{text}" for label, text in self._rows()]
        values = _packed([f"{name} {text}" for name, text in self._values()], WIDTH - 4)
        further = power(10 * self.range["flops"].high)
        use = f"  law.predict(N, D), law.summary(), law.plot(), isoflop.query(law, '{further}')"
        head = f"{self.name}: {family_of(self.law).formula}"
        lines = [head, *rows, *(f"  {line}" for line in values[:MOST_VALUES]), use]
        return "\n".join(
            line if len(line) <= WIDTH else f"{line[: WIDTH - 4]} ..." for line in lines
        )

    def _repr_html_(self) -> str:
        """The same for a notebook, with the whole reason of the verdict."""
        verdict = self.verdict
        tone = TONES[verdict.verdict]
        badge = f'<b style="color:{tone}">{verdict.verdict.upper()}</b>'
        rows = [("verdict", f"{badge}: {html.escape(verdict.reason)}")]
        rows += [(k, html.escape(v)) for k, v in (*self._rows()[1:], *self._values())]
        cells = "".join(
            f'<tr><th style="text-align:left">{html.escape(k)}</th>'
            f'<td style="text-align:left">{v}</td></tr>'
            for k, v in rows
        )
        formula = html.escape(family_of(self.law).formula)
        return f"<p><b>{html.escape(self.name)}</b>: {formula}</p><table>{cells}</table>"

    def _rows(self) -> list[tuple[str, str]]:
        """Verdict, runs and intervals in a line each."""
        verdict, span = self.verdict, self.range["flops"]
        c = self.convention
        runs = f"{self.runs_used}, {power(span.low)} to {power(span.high)} FLOP"
        counted = f"N {c.get('params', '?')}, C {c.get('flops', '?')}"
        return [
            ("verdict", f"{verdict.verdict.upper()}: {verdict.reason}"),
            ("runs", f"{runs}; {counted}"),
            ("level", f"{percent(self.interval.level)} confidence by {self.interval.method}"),
        ]

    def _values(self) -> list[tuple[str, str]]:
        """Every parameter and exponent with its interval."""
        unit = loss_unit(self.convention)
        out = []
        for name, value in {**self.theta, **self.exponents}.items():
            low, high = self.interval.bounds.get(name, (math.nan, math.nan))
            ends = interval_text(low, high, lambda end: f"{end:.4g}", least=-math.inf)
            out.append((name, f"{value:.4g} {ends}" + f" {unit}" * (name == "E")))
        return out


def fitted_law(fit: Fit) -> FittedLaw:
    """A fit with the methods of a `FittedLaw`."""
    return FittedLaw(**{f.name: getattr(fit, f.name) for f in dataclasses.fields(Fit)})


def fit(runs: object, *, name: str | None = None, **options: Any) -> FittedLaw:
    """Fit a law to runs: `isoflop fit` as a function, without a report.

    Args:
        runs: A data frame (pandas, polars, arrow), a dictionary of columns or a list of rows, with
            params, tokens and loss; path or glob of a table, or of a folder of run records; a list
            of `RunRecord`; or what `load` has read.
        name: Name of the fit; the input's own unless given.
        **options: Those of the command, such as `law`, `loss`, `interval`, `level`, `resamples`,
            `seed`; and, unless `load` has read the runs, `where`, `cluster`, `column`, `unit`,
            `params`, `flops`. `column`, `unit` and `hold` are dictionaries, `{"params": "n"}`, or
            texts `OURS=YOURS`.

    Returns:
        The fit, with its intervals and the notes of every check.

    Raises:
        RecordError: The runs cannot be read.
        FitError: They cannot carry the fit, or an option is not known.
        QueryError: A unit or a held parameter cannot be read.
    """
    is_table = isinstance(runs, RunTable)
    names = {field.name for field in dataclasses.fields(FitOptions)} - {"name"}
    names |= set() if is_table else READING_OPTIONS
    if unknown := sorted(options.keys() - names):
        raise FitError(
            f"unknown option '{unknown[0]}'; known are {', '.join(sorted(names))}. Choose one."
        )
    for option in PAIRS & options.keys():
        options[option] = _pairs(option, options[option])
    if "prior" in options:
        options["prior"] = _folders(options["prior"])
    check_type(FitError, "name", name, (str, type(None)), "text")
    check_type(FitError, "law", options.get("law", ""), (str,), "the name of a law")
    for option in TEXTS & options.keys():
        check_type(FitError, option, options[option], (str, type(None)), "text")
    if isinstance(runs, RunTable):
        options["hold"] = tuple(held_of(None, options.get("hold", ())).items())
        stem = Path(runs.source).stem
        return fitted_law(fit_table(runs, FitOptions(name=name or stem or "fit", **options)))
    stem = Path(runs).stem if isinstance(runs, str | os.PathLike) else ""
    return fitted_law(fit_runs(runs, name=name or stem or "fit", **options))


def read_fit(path: Path | str) -> FittedLaw:
    """Read a fit by its report folder, its `fit.json` or its name: `mine` is `reports/mine`.

    Raises:
        RecordError: Missing, corrupt, foreign or of a newer major version.
    """
    return FittedLaw.load(path)


def _pairs(option: str, value: object) -> list[str]:
    """An option of pairs as texts `NAME=VALUE`, from a dictionary, one text, texts or pairs."""
    if isinstance(value, str):
        return [value]
    if isinstance(value, Mapping):
        return [f"{name}={end}" for name, end in value.items()]
    rows = value if isinstance(value, list | tuple) else (None,)
    texts = [f"{r[0]}={r[1]}" if isinstance(r, tuple) and len(r) == 2 else r for r in rows]
    for text in texts:
        check_type(FitError, option, text, (str,), "a dictionary, or a list of texts NAME=VALUE,")
    return [str(text) for text in texts]


def _folders(value: object) -> tuple[str, ...]:
    """Report folders, one or several."""
    rows = value if isinstance(value, list | tuple) else (value,)
    return tuple(str(checked_path(row)) for row in rows)


def _axes(ax: Any) -> Axes:
    """Axes to draw on, new ones where there are none."""
    try:
        from matplotlib import pyplot
        from matplotlib.axes import Axes as Known
    except ImportError as error:
        raise ReportError(
            "drawing needs matplotlib, which is not installed. Run: pip install 'isoflop[report]'"
        ) from error
    if ax is None:
        return pyplot.subplots()[1]
    if not isinstance(ax, Known):
        raise ReportError(
            f"ax is {type(ax).__name__}; axes of matplotlib are needed: figure, ax = plt.subplots()"
        )
    return ax


def _packed(cells: Sequence[str], width: int) -> list[str]:
    """Cells in as few lines as they fit into, two blanks apart."""
    lines: list[str] = []
    for cell in cells:
        if lines and len(lines[-1]) + 2 + len(cell) <= width:
            lines[-1] += f"  {cell}"
        else:
            lines.append(cell)
    return lines
