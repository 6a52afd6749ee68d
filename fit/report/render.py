"""Write a report as PDF, as one HTML file, as Markdown or as LaTeX, with its figures.

The report is a function of `fit.json`: the same fit gives the same bytes. `write_report` draws the
figures (`figures.py`), gathers words and tables (`summary_page.py`) and sets the pages: `typeset`
by typst with the fonts that it carries, `html_page` as HTML without scripts or external addresses,
and `markup.py` as Markdown and LaTeX that link the figures beside them.
"""

from __future__ import annotations

import importlib.util
import json
import re
import tempfile
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from html import escape
from pathlib import Path
from types import MappingProxyType
from typing import Any

from fit.allocation.scaling_law import ScalingLaw
from fit.data.readers import load
from fit.errors import QueryError, ReportError
from fit.files import write_atomically
from fit.forecasts.ledger import read_ledger
from fit.quantities import option_name
from fit.report.brief import read_request
from fit.report.context_plots import models_table, shapes_of
from fit.report.figures import RenderedFigure, draw_figures, draw_shapes, figure_inputs
from fit.report.markup import latex_document, markdown_page
from fit.report.skills_page import shape_report_content
from fit.report.summary_page import CHANGES, report_content
from fit.report.tables import shell_lines
from fit.results import NATS_PER_TOKEN, loss_unit, report_folder

STYLE = Path(__file__).with_name("report.css")
MARKS = {"good": "✓", "fair": "!", "bad": "✗", "info": "·", "warning": "!", "serious": "✗"}
GREEK = {
    "alpha": "α", "beta": "β", "gamma": "γ", "delta": "δ", "eta": "η", "times": "×",
}  # fmt: skip
UPRIGHT = ("ln",)
_TOKEN = re.compile(r'"[^"]*"|\\.|[A-Za-z]+|[0-9.]+|\S|\s+')
_POWER = re.compile(r"(?<![\w.:])([0-9.]+)e(-?[0-9]+)(?!\w)")
_LINKED = re.compile(rb'(?:href="#|url\(#)([^")]+)')
_NAMED = re.compile(rb' id="([^"]*)"')
TEMPLATE = Path(__file__).with_name("report.typ")
FORMATS = ("pdf", "html", "md", "tex")
RECORDS = "*/record.json"
LEDGER = "ledger"
"""Folder of sealed forecasts, beside those of the reports."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WrittenReport:
    """A report that was written."""

    path: Path
    verdict: str | None = None
    """Of the fit and its answers; None without a fit."""
    refusal: str | None = None
    """Why the question that was put is not answered; None where it is, or none was put."""


def write_any_report(
    folder: Path,
    *,
    out: Path | None = None,
    form: str = "pdf",
    fields: Mapping[str, str | None] = MappingProxyType({}),
    author: str = "",
) -> WrittenReport:
    """Write the report of a fit, or of a folder of runs that have not been fitted.

    Args:
        folder: Report folder, its `fit.json`, the name of a fit, or a folder of run records.
        out: Folder to write into; None is that of the fit, and of runs `reports/` and their name.
        form: As in `write_report`.
        fields: As in `write_report`.
        author: As in `write_report`.

    Raises:
        RecordError, FitError, QueryError, ReportError: As `write_report`, `write_shape_report`.
    """
    if (folder / "fit.json").exists() or not any(folder.glob(RECORDS)):
        return write_report(folder, out, form=form, fields=fields, author=author)
    if asked := [option_name(name) for name, value in fields.items() if value is not None]:
        raise QueryError(
            f"{folder} holds runs without a fit, and {asked[0]} asks one. Fit them first: isoflop "
            "fit RUNS, or leave the option out."
        )
    out = out or Path("reports") / folder.resolve().name
    return write_shape_report(folder, out, form=form, author=author)


def write_report(
    folder: Path,
    out: Path | None = None,
    *,
    form: str = "pdf",
    fields: Mapping[str, str | None] = MappingProxyType({}),
    author: str = "",
) -> WrittenReport:
    """Write a report and its figures from a `fit.json`, beside it or into another folder.

    Args:
        folder: Report folder, the `fit.json` in it, or the name of the fit.
        out: As in `write_any_report`.
        form: `pdf` writes `report.pdf`, `html` one self-contained `report.html`, `md` and `tex`
            files that link the figures; always `figures/` gets every figure as PDF, as SVG and as
            CSV of the data drawn.
        fields: The question that page 1 answers, and plots and prices beside it, by the names of
            `question.FIELDS` as people type them; see `brief.read_request`.
        author: Name under the title.

    Returns:
        Path of the report, and why its question is refused if it is.

    Raises:
        RecordError: There is no readable fit, or the folder cannot be written to.
        FieldError: A field that cannot be read, is missing or one too many.
        QueryError: The request cannot be met, such as an unknown device.
        ReportError: matplotlib or typst is not installed, or the pages cannot be set.
    """
    _require("matplotlib", *(("typst",) if form == "pdf" else ()))
    source = ScalingLaw.at(folder)
    folder = report_folder(folder)
    request, asked = read_request(source, fields)
    inputs = figure_inputs(source, request, asked)
    figures = draw_figures(inputs)
    content = report_content(
        source,
        folder=report_path(folder),
        drawn={name: figure.shown for name, figure in figures.items()},
        ledger=read_ledger(folder.resolve().parent / LEDGER),
        author=author,
        inputs=inputs,
    )
    content = restate_unit(content, loss_unit(source.convention))
    path = _write_files(out or folder, content, figures, form)
    refusal = content["verdict"][1] if asked is not None and content["refused"] else None
    return WrittenReport(path=path, verdict=content["verdict"][0], refusal=refusal)


def write_shape_report(
    runs: Path, folder: Path, *, form: str = "pdf", author: str = ""
) -> WrittenReport:
    """Write a report on runs of several shapes to which no law is fitted.

    Args:
        runs: Folder of run records with losses by skill.
        folder: Folder of the report.
        form: As in `write_report`.
        author: As in `write_report`.

    Returns:
        Path of the report.

    Raises:
        RecordError: The runs cannot be read, or the folder cannot be written to.
        FitError: They have no losses by skill over several shapes.
        ReportError: matplotlib or typst is not installed, or the pages cannot be set.
    """
    _require("matplotlib", *(("typst",) if form == "pdf" else ()))
    table = load(runs)
    shapes = shapes_of(table)
    content = shape_report_content(folder.resolve().name, table, shapes, author)
    return WrittenReport(path=_write_files(folder, content, draw_shapes(shapes), form))


def restate_unit(content: Any, unit: str) -> Any:
    """The content of a report with the unit of its losses in all texts; written for nats/token."""
    if unit == NATS_PER_TOKEN:
        return content
    if isinstance(content, str):
        words = unit.replace("/", " per ")
        return content.replace(NATS_PER_TOKEN, unit).replace("nats per token", words)
    if isinstance(content, Mapping):
        return {k: restate_unit(v, unit) for k, v in content.items()}
    if isinstance(content, list | tuple):
        return [restate_unit(v, unit) for v in content]
    return content


def _write_files(
    folder: Path, content: Mapping[str, Any], figures: Mapping[str, RenderedFigure], form: str
) -> Path:
    """Set the pages and write them with their figures."""
    if form == "html":
        pages = html_page(content, {n: f.svg for n, f in figures.items()}).encode()
    elif form == "md":
        pages = markdown_page(content).encode()
    elif form == "tex":
        pages = latex_document(content).encode()
    else:
        pages = typeset(content, {f"{n}.pdf": f.pdf for n, f in figures.items()})
    for name, figure in figures.items():
        for suffix, data in (("pdf", figure.pdf), ("svg", figure.svg), ("csv", figure.csv)):
            write_atomically(folder / "figures" / f"{name}.{suffix}", data)
    if "models" in figures:
        write_atomically(folder / "figures" / "models-sources.csv", models_table())
    path = folder / f"report.{form}"
    write_atomically(path, pages)
    return path


def typeset(data: Mapping[str, Any], figures: Mapping[str, bytes]) -> bytes:
    """Set the pages of a report as PDF.

    Args:
        data: Content as from `report_content`.
        figures: PDF by file name.

    Raises:
        ReportError: The pages cannot be set.
    """
    import typst

    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        (root / TEMPLATE.name).write_text(TEMPLATE.read_text(encoding="utf-8"), encoding="utf-8")
        whole = {**data, **{k: _broken(data[k]) for k in ("brief", "sections") if k in data}}
        (root / "data.json").write_text(json.dumps(whole), encoding="utf-8")
        for file, content in figures.items():
            (root / file).write_bytes(content)
        try:
            pages = typst.compile(str(root / TEMPLATE.name), root=name, ignore_system_fonts=True)
        except RuntimeError as error:
            raise ReportError(
                f"typst could not set the report: {str(error).splitlines()[0]}. "
                "The fit itself is complete; please report this error with its fit.json."
            ) from error
    return bytes(pages)


def _broken(sections: Any) -> list[dict[str, Any]]:
    """Sections whose commands stand on lines that fit the paper and can be copied."""

    def broken(block: dict[str, Any]) -> dict[str, Any]:
        code = block.get("code")
        return {**block, "code": shell_lines(code)} if code else block

    return [{**s, "blocks": [broken(b) for b in s["blocks"]]} for s in sections]


def report_path(folder: Path) -> str:
    """The folder as its report names it: reports/NAME, or empty where it lies elsewhere.

    No path of this machine may stand in a report: the same fit gives the same bytes anywhere.
    """
    path = folder.resolve()
    return f"reports/{path.name}" if path.parent.name == "reports" else ""


def _require(*packages: str) -> None:
    """Raise an error where an optional package is missing."""
    missing = [p for p in packages if importlib.util.find_spec(p) is None]
    if missing:
        raise ReportError(
            f"a report needs {' and '.join(missing)}, not installed here. "
            "Run: pip install 'isoflop[report]', or fit with --no-report."
        )


def html_page(data: Mapping[str, Any], figures: Mapping[str, bytes]) -> str:
    """Set a report as HTML.

    Args:
        data: Content as from `report_content`.
        figures: SVG by name of figure.

    Returns:
        A complete HTML document.
    """
    name = escape(data["name"])
    parts = [
        "<!doctype html>",
        '<html lang="en"><head><meta charset="utf-8">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        f"<title>Scaling-law report: {name}</title>",
        f"<style>{STYLE.read_text(encoding='utf-8')}</style></head><body><main>",
        f'<p class="kind">Scaling-law report</p><h1>{name}</h1>',
        '<p class="front">'
        + " · ".join(f"{escape(k)}: {escape(v)}" for k, v in data["front"])
        + "</p>",
        f'<p class="about">{formatted_text(data["about"])}</p>',
        f'<p class="question">{"".join(_styled(s, w) for s, w in data["question"])}</p>',
        _verdict_html(data["verdict"]),
        f'<p class="summary">{"".join(_styled(s, w) for s, w in data["summary"])}</p>',
        _answer_table(data),
    ]
    counts = {"figure": 0, "table": 0}
    if data["first"] is not None and data["first"]["name"] in figures:
        parts.append(_block(data["first"], figures, counts))
    parts += [_block(block, figures, counts) for block in data.get("besides", ())]
    parts += [
        '<div class="sides">',
        f"<section><h2>How sure it is</h2>{_marked_list(data['checks'])}</section>",
        f"<section><h2>{CHANGES}</h2>{_marked_list(data['limitations'])}</section></div>",
    ]
    parts += [_section(section, figures, counts) for section in data["brief"]]
    parts += ['<p class="kind">Appendix</p>'] if data["sections"] else []
    parts += [_section(section, figures, counts) for section in data["sections"]]
    return "\n".join([*parts, "</main></body></html>", ""])


def _verdict_html(verdict: tuple[str, str] | None) -> str:
    """The verdict and the sentence that decides it."""
    if verdict is None:
        return ""
    word, reason = map(escape, verdict)
    return f'<p class="verdict {word}"><strong>{word.capitalize()}.</strong> {reason}</p>'


def formatted_text(text: str) -> str:
    """A text of the report as HTML, with mathematics between dollar signs."""
    parts = text.split("$")
    return "".join(mathematics(p) if i % 2 else escape(p) for i, p in enumerate(parts))


def mathematics(text: str) -> str:
    """Mathematics as HTML; covers the part of typst's notation that reports use."""
    tokens = [t.strip() or " " for t in _TOKEN.findall(text)]
    return f"<i class=m>{''.join(_tokens_html(tokens))}</i>"


def _tokens_html(tokens: list[str]) -> Iterable[str]:
    """Tokens as HTML, those after ^ and _ as superscripts and subscripts."""
    while tokens:
        token = tokens.pop(0)
        if token in ("^", "_"):
            tag = "sup" if token == "^" else "sub"
            yield f"<{tag}>{''.join(_tokens_html(_take_group(tokens)))}</{tag}>"
        else:
            yield _token_html(token)


def _take_group(tokens: list[str]) -> list[str]:
    """Remove and return the next token with its index, or the content of the next brackets."""
    if not tokens or tokens[0] != "(":
        group = [tokens.pop(0)] if tokens else []
        if len(tokens) > 1 and tokens[0] == "_":
            group += [tokens.pop(0), tokens.pop(0)]
        return group
    depth, out = 0, []
    while tokens:
        token = tokens.pop(0)
        depth += (token == "(") - (token == ")")
        if not depth:
            break
        out.append(token)
    return out[1:]


def _token_html(token: str) -> str:
    """One token: Greek letters by name, words and numbers upright, other letters in italics."""
    if token in GREEK:
        return GREEK[token]
    plain = token.strip('"') if token.startswith('"') else token.removeprefix("\\")
    signs = {"*": "∗", "~": "∼", "'": "′"}
    upright = token in UPRIGHT or token.startswith('"') or not token.isalpha()
    word = escape(signs.get(plain, plain))
    return f"<span class=u>{word}</span>" if upright and plain.strip() else word


def _styled(style: str, words: str) -> str:
    """A part of the sentences at the top of page 1."""
    tags: Mapping[str, Callable[[str], str]] = {
        "strong": lambda w: f"<strong>{escape(w)}</strong>",
        "loud": lambda w: f'<strong class="loud">{escape(w)}</strong>',
        "number": _numbers,
    }
    return tags.get(style, escape)(words)


def _numbers(words: str) -> str:
    """Numbers such as 3.5e12 as powers of ten."""

    def power(match: re.Match[str]) -> str:
        head = "" if match[1] == "1" else f"{match[1]} × "
        return f"{head}10<sup>{match[2].replace('-', '−')}</sup>"

    return _POWER.sub(power, escape(words))


def _command_html(words: str) -> str:
    """A name without the invisible break points, so that it can be copied."""
    return escape(words.replace("\N{ZERO WIDTH SPACE}", ""))


def _answer_table(data: Mapping[str, Any]) -> str:
    """The table of page 1."""
    if data["answers"] is None:
        return ""
    heads = "".join(
        f'<th colspan="2" scope="colgroup">{escape(w)}, {_numbers(c)} FLOP</th>'
        for w, c in data["answers"]["heads"]
    )
    level = escape(data["level"])
    second = f"<th>best</th><th>{level} interval</th>" * len(data["answers"]["heads"])
    rows = "".join(
        f'<tr><th scope="row">{formatted_text(label)}</th>'
        f"{''.join(map(_value_and_interval, cells))}</tr>"
        for label, cells in data["answers"]["rows"]
    )
    head = f"<thead><tr><td></td>{heads}</tr><tr><td></td>{second}</tr></thead>"
    return f'<div class="wide"><table class="answers">{head}<tbody>{rows}</tbody></table></div>'


def _value_and_interval(cells: list[str]) -> str:
    """A value with its interval, or one text across both columns."""
    if len(cells) == 1:
        return f'<td colspan="2" class="both">{_numbers(cells[0])}</td>'
    return f'<td class="r">{_numbers(cells[0])}</td><td class="ends">{_numbers(cells[1])}</td>'


def _marked_list(rows: Iterable[tuple[str, str]]) -> str:
    """Checks or notes, each with the mark of its grade."""
    items = "".join(
        f'<li class="{escape(g)}" data-mark="{MARKS[g]}">{escape(words)}</li>' for g, words in rows
    )
    return f"<ul>{items}</ul>"


def _section(
    section: Mapping[str, Any], figures: Mapping[str, bytes], counts: dict[str, int]
) -> str:
    """A heading and its blocks."""
    title = f"<h2>{escape(section['title'])}</h2>" if section["title"] else ""
    blocks = "\n".join(_block(b, figures, counts) for b in section["blocks"])
    return f"<section>{title}\n{blocks}</section>"


def _block(block: Mapping[str, Any], figures: Mapping[str, bytes], counts: dict[str, int]) -> str:
    """A figure, a table or a paragraph."""
    if block["kind"] == "notes":
        return _marked_list(block["rows"])
    if block["kind"] == "paragraph":
        text = escape(block["text"]) if block["plain"] else formatted_text(block["text"])
        lead = f"<strong>{escape(block['lead'])}.</strong> " if block["lead"] else ""
        code = f"<pre>{escape(shell_lines(block['code']))}</pre>" if block["code"] else ""
        return f"<p>{lead}{text}</p>{code}"
    numbered = block["kind"] == "figure" or bool(block["caption"] and not block["dense"])
    counts[block["kind"]] += numbered
    word = "Figure" if block["kind"] == "figure" else "Table"
    title = f"{word} {counts[block['kind']]}" if numbered else ""
    words = f"{title}{': ' * numbered}{formatted_text(block['caption'])}"
    caption = f"<figcaption>{words}</figcaption>" if block["caption"] else ""
    if block["kind"] == "figure":
        drawing = _inline_svg(figures[block["name"]], block["name"], title)
        return f'<figure><div class="wide">{drawing}</div>{caption}</figure>'
    return f'<figure>{caption}<div class="wide">{_table(block)}</div></figure>'


def _table(block: Mapping[str, Any]) -> str:
    """A table of cells, each set as its column says."""
    columns = block["columns"]
    heads = "".join(f"<th{_alignment(c)}>{formatted_text(c['head'])}</th>" for c in columns)
    head = f"<thead><tr>{heads}</tr></thead>" if any(c["head"] for c in columns) else ""
    rows = "".join(
        f"<tr>{''.join(_cell(w, c) for w, c in zip(row, columns, strict=True))}</tr>"
        for row in block["rows"]
    )
    kind = ' class="dense"' if block["dense"] else ""
    return f"<table{kind}>{head}<tbody>{rows}</tbody></table>"


def _cell(words: str, column: Mapping[str, Any]) -> str:
    """One cell."""
    forms: Mapping[str, Callable[[str], str]] = {
        "number": _numbers,
        "span": _numbers,
        "raw": lambda w: f"<code>{_command_html(w)}</code>",
        "symbol": formatted_text,
        "meaning": lambda w: f'<span class="grey">{formatted_text(w)}</span>',
    }
    return f"<td{_alignment(column)}>{forms.get(column['form'], escape)(words)}</td>"


def _alignment(column: Mapping[str, Any]) -> str:
    """Class of a right-aligned column."""
    return ' class="r"' if column["right"] else ""


def _inline_svg(svg: bytes, name: str, title: str) -> str:
    """A figure inside the page: without prolog, and with ids that are unique on the page."""
    body = svg[svg.index(b"<svg") :]
    body = re.sub(rb"<metadata>.*?</metadata>", b"", body, flags=re.DOTALL)
    linked = set(_LINKED.findall(body))
    mark = name.encode()

    def unique_id(match: re.Match[bytes]) -> bytes:
        return b' id="%s-%s"' % (mark, match[1]) if match[1] in linked else b""

    body = _NAMED.sub(unique_id, body)
    body = re.sub(rb'((?:href="#|url\(#))', rb"\1" + mark + b"-", body)
    head = f'<svg role="img" aria-label="{escape(title)}"'.encode()
    return body.replace(b"<svg", head, 1).decode()
