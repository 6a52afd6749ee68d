"""A report as GitHub Markdown and as LaTeX, which link the figures in `figures/` beside them.

Both writers walk the same content as the PDF and the HTML page (`summary_page.report_content`). A
`Dialect` says how each writes text, mathematics, a command, a table and a figure.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from fit.report.tables import math_power, shell_lines

Content = Mapping[str, Any]
MARKS = {"good": "ok", "fair": "!", "bad": "x", "info": "-", "warning": "!", "serious": "x"}
GREEK = ("alpha", "beta", "gamma", "delta", "eta")
SPACE = "\N{ZERO WIDTH SPACE}"
_MATHS = re.compile(r'"[^"]*"|\\.|[A-Za-z]+|[0-9.]+|\S|\s+')
_SCIENTIFIC = re.compile(r"(?<![\w.:])([0-9.]+)e([-\N{MINUS SIGN}]?[0-9]+)(?!\w)")
_TEX = {
    "\\": r"\textbackslash{}", "{": r"\{", "}": r"\}", "$": r"\$", "&": r"\&", "#": r"\#",
    "%": r"\%", "_": r"\_", "^": r"\textasciicircum{}", "~": r"\textasciitilde{}",
    "<": r"\textless{}", ">": r"\textgreater{}", "|": r"\textbar{}", '"': r"\textquotedbl{}",
    "'": r"\textquotesingle{}", "`": r"\textasciigrave{}", "-": "{-}",
    "\N{MINUS SIGN}": "$-$", "\N{EN DASH}": "--", "\N{EM DASH}": "---",
    "\N{MULTIPLICATION SIGN}": r"$\times$", "\N{PLUS-MINUS SIGN}": r"$\pm$",
    "\N{MIDDLE DOT}": r"$\cdot$", "\N{HORIZONTAL ELLIPSIS}": r"\ldots{}",
    "\N{LEFT DOUBLE QUOTATION MARK}": "``", "\N{RIGHT DOUBLE QUOTATION MARK}": "''",
    "\N{RIGHT SINGLE QUOTATION MARK}": "'", "\N{REPLACEMENT CHARACTER}": "?",
    SPACE: r"\allowbreak{}",
    "\N{GREEK SMALL LETTER ALPHA}": r"$\alpha$", "\N{GREEK SMALL LETTER BETA}": r"$\beta$",
    "\N{GREEK SMALL LETTER KAPPA}": r"$\kappa$", "\N{LESS-THAN OR EQUAL TO}": r"$\le$",
    "\N{GREATER-THAN OR EQUAL TO}": r"$\ge$", "[": "{[}", "]": "{]}",
}  # fmt: skip
"""How LaTeX writes each character that it would otherwise read as a command or cannot set."""
_MARKDOWN = re.compile(r"([\\`*_{}\[\]<>#|~$&!])")
PREAMBLE = r"""\documentclass[a4paper,10pt]{article}
\usepackage[utf8]{inputenc}
\usepackage[T1]{fontenc}
\usepackage{textcomp,amsmath,graphicx,float,array,booktabs,longtable,tabularx}
\usepackage[margin=21mm]{geometry}
\IfFileExists{lmodern.sty}{\usepackage{lmodern}}{}
\setlength{\parindent}{0pt}\setlength{\parskip}{0.5em}
\setcounter{secnumdepth}{0}
\makeatletter % straight quotes in commands, as upquote sets them
{\catcode`'=\active\catcode``=\active\g@addto@macro\@noligs{\let`\textasciigrave\let'\textquotesingle}}
\makeatother
\begin{document}"""


NO_WIDER = r"\ifdim\width>\linewidth\linewidth\else\width\fi"
"""The width of a table that is set smaller where it is wider than the page."""
SEPARATION, LETTER = 0.028, 0.0075
"""Parts of a line that the space between two columns and a letter of a dense table take."""


def latex_text(text: str) -> str:
    """A text with every character that LaTeX reads as a command escaped; others by their number."""

    def letter(c: str) -> str:
        if c in _TEX:
            return _TEX[c]
        # T1 has the letters of Western European languages; the rest is named by its number.
        return c if ord(c) < 127 or 0xA1 <= ord(c) <= 0xFF else f"[U+{ord(c):04X}]"

    return "".join(map(letter, text))


def latex_maths(text: str) -> str:
    """Mathematics of a report's texts, which are in typst's notation, in LaTeX's."""
    parts: list[str] = []
    closing: list[str] = []
    raised = False
    for token in _MATHS.findall(text):
        if token.isspace():
            parts.append(" ")
            continue
        if token in "^_" and not raised:
            raised = True
            parts.append(token)
            continue
        if token == "(":
            parts.append("{" if raised else "(")
            closing.append("}" if raised else ")")
        elif token == ")":
            parts.append(closing.pop() if closing else ")")
        else:
            word = _maths_word(token)
            parts.append(f"{{{word}}}" if raised else word)
        raised = False
    return "".join(parts).strip() + "".join(reversed(closing))


def _maths_word(token: str) -> str:
    """One word or sign of mathematics."""
    if token.startswith('"'):
        return rf"\mathrm{{{latex_text(token.strip(chr(34)))}}}"
    if token.startswith("\\"):
        return latex_text(token[1:])
    named = {"times": r"\times ", "ln": r"\ln ", "~": r"\sim ", "*": r"\ast "}
    if token in named:
        return named[token]
    if token in GREEK:
        return rf"\{token} "
    if token.isalpha() and token.isascii():
        return token if len(token) == 1 else rf"\mathrm{{{token}}}"
    return latex_text(token) if token in '{}$&#%"`' else token


class Dialect(Protocol):
    """How a format writes the parts of a report."""

    def text(self, words: str) -> str:
        """Plain text."""

    def bold(self, words: str) -> str:
        """Text that stands out."""

    def name(self, words: str) -> str:
        """The name of a run or a file."""

    def heading(self, words: str, level: int) -> str:
        """A heading of level 1, 2 or 3."""

    def notes(self, rows: Iterable[Sequence[str]]) -> str:
        """A list of graded notes."""

    def command(self, code: str) -> str:
        """A command that can be copied."""

    def figure(self, block: Content, caption: str, title: str) -> str:
        """A linked figure with its caption."""

    def table(self, block: Content, caption: str, rows: Sequence[Sequence[str]]) -> str:
        """A table of cells that are set already, with its caption and heads."""


@dataclass
class MarkdownDialect:
    """GitHub's Markdown: pipe tables, mathematics between dollar signs, figures as SVG."""

    def text(self, words: str) -> str:
        return _MARKDOWN.sub(r"\\\1", words.replace(SPACE, ""))

    def bold(self, words: str) -> str:
        return f"**{self.text(words.strip())}**" if words.strip() else ""

    def name(self, words: str) -> str:
        """In backquotes, unless it holds some itself."""
        plain = words.replace(SPACE, "").replace("|", "\\|")
        return self.text(words) if "`" in plain else f"`{plain}`"

    def heading(self, words: str, level: int) -> str:
        return f"{'#' * level} {self.text(words)}"

    def notes(self, rows: Iterable[Sequence[str]]) -> str:
        return "\n".join(f"- ({MARKS[g]}) {self.text(words)}" for g, words in rows)

    def command(self, code: str) -> str:
        """A block between more backquotes than it holds."""
        fence = "`" * max(3, 1 + max(map(len, re.findall("`+", code)), default=0))
        return f"{fence}sh\n{shell_lines(code)}\n{fence}"

    def figure(self, block: Content, caption: str, title: str) -> str:
        name = block["name"]
        return f"![{title}](figures/{name}.svg)\n\n*{title}.* {caption}"

    def table(self, block: Content, caption: str, rows: Sequence[Sequence[str]]) -> str:
        columns = block["columns"]
        heads = [rich(self, c["head"]) for c in columns]
        marks = ["---:" if c["right"] else ":---" for c in columns]
        lines = [f"| {' | '.join(cells)} |" for cells in (heads, marks, *rows)]
        return "\n".join([*([caption, ""] if caption else []), *lines])


@dataclass
class LatexDialect:
    """LaTeX with booktabs, tabularx and longtable; figures as PDF."""

    def text(self, words: str) -> str:
        return latex_text(words)

    def bold(self, words: str) -> str:
        return rf"\textbf{{{latex_text(words.strip())}}}" if words.strip() else ""

    def name(self, words: str) -> str:
        """In typewriter type, breakable after a hyphen."""
        return rf"\texttt{{{latex_text(words).replace('{-}', '{-}' + chr(92) + 'allowbreak{}')}}}"

    def heading(self, words: str, level: int) -> str:
        return rf"\{('section*', 'section', 'subsection')[level - 1]}{{{latex_text(words)}}}"

    def notes(self, rows: Iterable[Sequence[str]]) -> str:
        items = [rf"\item[{{{MARKS[g]}}}] {latex_text(words)}" for g, words in rows]
        return "\n".join([r"\begin{itemize}", *items, r"\end{itemize}"]) if items else ""

    def command(self, code: str) -> str:
        """Verbatim; a name that would end it gets empty quotes, which a shell drops."""
        lines = shell_lines(code).replace(r"\end{verbatim}", r"\end''{verbatim}")
        return f"{{\\small\\begin{{verbatim}}\n{lines}\n\\end{{verbatim}}}}"

    def figure(self, block: Content, caption: str, title: str) -> str:
        width = f"{block['width'] / 100:.2f}"
        image = rf"\includegraphics[width={width}\linewidth]{{figures/{block['name']}.pdf}}"
        lines = [r"\begin{figure}[H]", r"\centering", image, rf"\caption{{{caption}}}"]
        return "\n".join([*lines, r"\end{figure}"])

    def table(self, block: Content, caption: str, rows: Sequence[Sequence[str]]) -> str:
        columns = block["columns"]
        heads = " & ".join(rich(self, c["head"]) for c in columns) + r" \\"
        body = [" & ".join(cells) + r" \\" for cells in rows]
        ruled = [r"\toprule", *([heads, r"\midrule"] if any(c["head"] for c in columns) else [])]
        inner = [*ruled, *body, r"\bottomrule"]
        if block["dense"]:
            share = _share_of_wide(block)
            wide = rf">{{\raggedright\arraybackslash}}p{{{share:.2f}\linewidth}}"
            letters = (wide if c["wide"] else _side(c) for c in columns)
            start = rf"\begin{{longtable}}{{{''.join(letters)}}}"
            lines = [*([caption, ""] if caption else []), r"{\scriptsize", start, *inner]
            return "\n".join([*lines, r"\end{longtable}}"])
        spec = "".join("X" if c["wide"] else _side(c) for c in columns)
        kind, width = ("tabularx", r"{\linewidth}") if "X" in spec else ("tabular", "")
        named = [rf"\caption{{{caption}}}\vspace{{4pt}}"] if caption else []
        opening = [r"\begin{table}[H]", *named, r"\small"]
        inner = [rf"\begin{{{kind}}}{width}{{{spec}}}", *inner, rf"\end{{{kind}}}"]
        if not width:
            inner = [rf"\resizebox{{{NO_WIDER}}}{{!}}{{%", *inner, "}"]
        return "\n".join([*opening, *inner, r"\end{table}"])


def _share_of_wide(block: Content) -> float:
    """The part of a line that each wide column of a dense table may take."""
    columns = block["columns"]
    heads = [c["head"] for c in columns]
    longest = [max(len(r[i]) for r in (heads, *block["rows"])) for i in range(len(columns))]
    taken = sum(
        SEPARATION + LETTER * n for n, c in zip(longest, columns, strict=True) if not c["wide"]
    )
    wide = max(1, sum(bool(c["wide"]) for c in columns))
    return float(max(0.12, (1 - taken) / wide - SEPARATION))


def _side(column: Content) -> str:
    """The letter of a column's alignment."""
    return "r" if column["right"] else "l"


def rich(dialect: Dialect, words: str) -> str:
    """A text with mathematics between dollar signs."""
    parts = words.split("$")
    return "".join(f"${latex_maths(p)}$" if i % 2 else dialect.text(p) for i, p in enumerate(parts))


def numbers(dialect: Dialect, words: str) -> str:
    """A text whose numbers such as 3.5e12 are powers of ten."""
    parts, end = [], 0
    for match in _SCIENTIFIC.finditer(words):
        power = match[2].replace("\N{MINUS SIGN}", "-")
        head = "" if match[1] == "1" else rf"{match[1]} \times "
        parts += [dialect.text(words[end : match.start()]), f"${head}10^{{{power}}}$"]
        end = match.end()
    return "".join([*parts, dialect.text(words[end:])])


def cell(dialect: Dialect, words: str, form: str) -> str:
    """A cell as its column says; see `tables.FORMS`."""
    if form in ("number", "span"):
        return numbers(dialect, words)
    if form in ("symbol", "meaning"):
        return rich(dialect, words)
    return dialect.name(words) if form == "raw" and words else dialect.text(words)


@dataclass
class _Writer:
    """The parts of a document in a dialect, with figures and tables counted."""

    dialect: Dialect
    parts: list[str] = field(default_factory=list)
    counts: dict[str, int] = field(default_factory=lambda: {"figure": 0, "table": 0})
    numbered: bool = True
    """Whether captions begin with their number; LaTeX counts by itself."""

    def block(self, block: Content) -> None:
        """Add a figure, a table, a paragraph or notes."""
        d, kind = self.dialect, block["kind"]
        if kind == "notes":
            self.parts.append(d.notes(block["rows"]))
        elif kind == "paragraph":
            lead = d.bold(f"{block['lead']}.") + " " if block["lead"] else ""
            text = d.text(block["text"]) if block["plain"] else rich(d, block["text"])
            self.parts += [lead + text, *([d.command(block["code"])] if block["code"] else [])]
        else:
            counted = kind == "figure" or bool(block["caption"] and not block["dense"])
            self.counts[kind] += counted
            title = f"{kind.capitalize()} {self.counts[kind]}" if counted else ""
            caption = rich(d, block["caption"])
            if kind == "figure":
                self.parts.append(d.figure(block, caption, title))
                return
            if title and self.numbered:
                caption = f"*{title}.* {caption}"
            forms = [c["form"] for c in block["columns"]]
            rows = [
                [cell(d, w, form) for w, form in zip(row, forms, strict=True)]
                for row in block["rows"]
            ]
            self.parts.append(d.table(block, caption, rows))

    def sections(self, sections: Iterable[Content]) -> None:
        """Add sections with their headings."""
        for section in sections:
            if section["title"]:
                self.parts.append(self.dialect.heading(section["title"], 2))
            for block in section["blocks"]:
                self.block(block)

    def document(self, data: Content) -> str:
        """Add a whole report: page 1, page 2, appendix."""
        d = self.dialect
        self.parts.append(d.heading(data["name"], 1))
        self.parts.append("; ".join(f"{d.text(k)}: {d.text(v)}" for k, v in data["front"]))
        self.parts.append(rich(d, data["about"]))
        self.parts.append("".join(_styled(d, s, w) for s, w in data["question"]))
        if data["verdict"] is not None:
            word, reason = data["verdict"]
            self.parts.append(f"{d.bold(word.capitalize() + '.')} {d.text(reason)}")
        self.parts.append("".join(_styled(d, s, w) for s, w in data["summary"]))
        if data["answers"] is not None:
            self.block(_answer_block(data))
        if data["first"] is not None:
            self.block(data["first"])
        for block in data.get("besides", ()):
            self.block(block)
        for title, rows in (("How sure it is", "checks"), ("What would change it", "limitations")):
            self.parts += [d.heading(title, 2), d.notes(data[rows])]
        self.sections(data["brief"])
        if data["brief"]:
            self.parts.append(d.heading("Appendix", 1))
        self.sections(data["sections"])
        return "\n\n".join(p for p in self.parts if p)


def _styled(dialect: Dialect, style: str, words: str) -> str:
    """A part of the sentences at the top of page 1, the blanks around it kept."""
    if style == "number":
        return numbers(dialect, words)
    return dialect.bold(words) if style in ("strong", "loud") else dialect.text(words)


def _answer_block(data: Content) -> dict[str, Any]:
    """The table of page 1 as a table of one row per quantity and two columns per answer."""
    columns = [{"head": "", "form": "symbol", "right": False, "wide": False}]
    for words, flops in data["answers"]["heads"]:
        best = {
            "head": f"{words}, {math_power(flops)} FLOP",
            "form": "span",
            "right": True,
            "wide": False,
        }
        columns += [best, {**best, "head": f"{data['level']} interval", "right": False}]
    rows = [
        [label, *(c for cells in answers for c in (cells if len(cells) == 2 else [*cells, ""]))]
        for label, answers in data["answers"]["rows"]
    ]
    return {"kind": "table", "caption": "", "dense": False, "columns": columns, "rows": rows}


def markdown_page(data: Content) -> str:
    """A report as GitHub Markdown, its figures linked as SVG.

    Args:
        data: Content as from `report_content`.
    """
    return _Writer(MarkdownDialect()).document(data) + "\n"


def latex_document(data: Content) -> str:
    """A report as a LaTeX document, its figures included as PDF.

    Args:
        data: Content as from `report_content`.
    """
    body = _Writer(LatexDialect(), numbered=False).document(data)
    return f"{PREAMBLE}\n\n{body}\n\n\\end{{document}}\n"
