"""What a report is made of: sections of figures, tables and paragraphs, for any printer.

Texts of ours may hold mathematics between dollar signs, in typst's notation; cells are plain texts
whose column says how they are set.
"""

from __future__ import annotations

from dataclasses import dataclass, field

FORMS = ("text", "small", "number", "span", "raw", "symbol", "meaning")
"""How a cell is set: as text; small and grey; a number, `3.5e12` as a power; numbers joined by
` to `; in type of fixed width; a symbol of the law; mathematics between dollar signs, grey."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Column:
    """A column of a table."""

    head: str
    """May hold mathematics."""
    form: str = "text"
    """One of `FORMS`."""
    right: bool = False
    wide: bool = False
    """Takes the width that the others leave."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """A table with its caption above it."""

    columns: tuple[Column, ...]
    rows: tuple[tuple[str, ...], ...]
    caption: str = ""
    dense: bool = False
    """Small type, and it may run over pages."""
    kind: str = "table"


@dataclass(frozen=True, slots=True, kw_only=True)
class Picture:
    """A figure by its name, with its caption beneath."""

    name: str
    caption: str
    width: int = 100
    """Percent of the text's width on paper."""
    kind: str = "picture"


@dataclass(frozen=True, slots=True, kw_only=True)
class Words:
    """A paragraph."""

    text: str
    lead: str = ""
    """In bold before it."""
    plain: bool = False
    """Written by others: nothing in it is mathematics."""
    code: str = ""
    """A command beneath it."""
    kind: str = "words"


Block = Table | Picture | Words


@dataclass(frozen=True, slots=True, kw_only=True)
class Section:
    """A part of a report under a heading."""

    title: str
    blocks: tuple[Block, ...] = field(default_factory=tuple)


def math_power(text: str) -> str:
    """A number such as 3.5e12, as mathematics."""
    mantissa, _, exponent = text.partition("e")
    if not exponent:
        return text
    return f"$10^{exponent}$" if mantissa == "1" else f"${mantissa} times 10^{exponent}$"


def left(head: str, form: str = "text") -> Column:
    """A column of words."""
    return Column(head=head, form=form)


def right(head: str, form: str = "text") -> Column:
    """A column of numbers."""
    return Column(head=head, form=form, right=True)


def wide(head: str, form: str = "text") -> Column:
    """A column of words that takes what room there is."""
    return Column(head=head, form=form, wide=True)
