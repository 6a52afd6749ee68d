"""Overrides as people type them, before Hydra reads them.

Hydra's grammar gives a meaning to `= ( ) [ ] { } : , ~` and to what looks like a number. So a name
such as 2024_11_28 would become the number 20241128, 10,000 a sweep over 10 and 0, and a path with a
bracket an error of the grammar. Names stay text here, numbers with their thousands kept apart
become plain ones, and what Hydra cannot read is refused with the quoted override that works.
"""

from __future__ import annotations

import os
import re
import shlex
import types
import typing
from collections.abc import Sequence
from dataclasses import is_dataclass
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException

from fit.errors import PlanError
from sweep.config import Config

GROUPED = re.compile(r"[1-9]\d{0,2}(,\d{3})+", re.ASCII)
"""A number with commas between its thousands, or a sweep over numbers of up to three digits."""
COUNTS = (
    "model.params train.tokens train.batch_tokens train.micro_batch_tokens train.warmup_tokens "
    "train.batch_doublings data.unique_tokens data.heldout_tokens data.vocab sweep.flops"
).split()
"""Settings whose values are large enough to be written with commas."""
SWEPT_SMALL = ("train.batch_tokens", "train.micro_batch_tokens")
"""Those of them that are also swept over numbers of up to three digits."""
ONE_VALUE = ("runs_dir", "data.cache", "data.pattern")
"""Texts that no sweep is spanned over: their commas are their own."""
PLAIN = re.compile(r"[\w\-./+\\$%*@?|,]*", re.ASCII)
"""Values that Hydra reads without quotes, apart from what looks like something else."""
_QUOTED = re.compile(
    r"\s*(['\"\[{]|\$\{|(choice|range|interval|glob|shuffle|sort|tag|extend_list)\()"
)
"""How values begin that are quoted, lists or calls already."""


def read_overrides(overrides: Sequence[str]) -> list[str]:
    """Overrides as Hydra has to be given them.

    Args:
        overrides: As they were typed.

    Raises:
        PlanError: Hydra cannot read one, or would read it as a sweep that it is not.
    """
    parser = OverridesParser.create()
    return [_read_override(parser, override) for override in overrides]


def _read_override(parser: OverridesParser, override: str) -> str:
    """One override as Hydra has to be given it."""
    key, equals, value = override.partition("=")
    name = key.lstrip("+").partition("@")[0].strip()
    if not equals or name.startswith(("~", "hydra", "spend.")):
        return override
    if _QUOTED.match(value) is None:
        if name in COUNTS and "," in value:
            value = _join_thousands(name, value)
        if name in TEXTS:
            value = _keep_text(name, value, optional=TEXTS[name])
    if PLAIN.fullmatch(value) is None:
        _check_grammar(parser, key, value)
    return f"{key}={value}"


def _join_thousands(name: str, value: str) -> str:
    """A number without its commas, or the sweep that it can only be.

    Raises:
        PlanError: It may be either.
    """
    parts = value.split(",")
    inner = [part.startswith("0") and len(part) == 3 for part in parts[1:]]
    if GROUPED.fullmatch(value) is None:
        if any(inner):
            raise PlanError(f"{name}={value}; in a sweep, numbers are written without commas.")
        return value
    # No number begins with a 0, so that with one this is no sweep over small numbers.
    if any(inner) and all(inner[1:-1]):
        return value.replace(",", "")
    if not any(inner) and name in SWEPT_SMALL:
        return value
    raise PlanError(
        f"{name}={value} may be one number or a sweep; write {name}={value.replace(',', '')}, or "
        "the numbers of a sweep without commas"
        + ("." if any(inner) else f": {_typed(name, f'choice({value})')}.")
    )


def _keep_text(name: str, value: str, *, optional: bool) -> str:
    """A text, quoted where Hydra would read a number, a truth value or null.

    Raises:
        PlanError: A comma makes a sweep of what is one text.
    """
    parts = value.split(",")
    if len(parts) > 1 and (name in ONE_VALUE or os.path.exists(os.path.expanduser(value))):
        raise PlanError(
            f"{name}={value} would be a sweep over {len(parts)} values. One value with a comma is "
            f"written in quotes: {_typed(name, quote_text(value))}"
        )
    return ",".join(quote_text(p) if _looks_like_value(p, optional=optional) else p for p in parts)


def _looks_like_value(text: str, *, optional: bool) -> bool:
    """Whether Hydra reads a plain text as something else; null is meant where it is `optional`."""
    word = text.strip().lower()
    if word == "null":
        return not optional
    if word in ("true", "false"):
        return True
    try:
        float(word)  # also inf, nan and 2024_11_28
    except ValueError:
        return False
    return True


def _check_grammar(parser: OverridesParser, key: str, value: str) -> None:
    """Refuse an override that Hydra cannot read, with one that it can.

    Raises:
        PlanError: It cannot.
    """
    try:
        parser.parse_overrides([f"{key}={value}"])
    except HydraException:
        odd = sorted({c for c in value if PLAIN.fullmatch(c) is None})
        signs = " ".join("a space" if c == " " else c for c in odd)
        text = f"{key}={value} cannot be read, because of {signs}; "
        if key.lstrip("+").partition("@")[0] in TEXTS:
            home = os.path.expanduser(value) if value.startswith("~") else value
            text += f"in quotes it is plain text: {_typed(key, quote_text(home))}"
        else:
            text += "a list is written [1e6,2e6], a sweep 1e6,2e6, and text in quotes."
        raise PlanError(text) from None


def quote_text(text: str) -> str:
    """A text in Hydra's quotes; double ones, which a shell's single ones can hold."""
    escaped = re.sub(r'(\\*)(")', r"\1\1\\\2", text)  # backslashes are plain but before a quote
    trailing = len(escaped) - len(escaped.rstrip("\\"))
    return f'"{escaped}{chr(92) * trailing}"'


def _typed(key: str, value: str) -> str:
    """An override as it is typed in a shell."""
    return shlex.quote(f"{key}={value}")


def _text_fields(section: Any, prefix: str = "") -> dict[str, bool]:
    """Dotted names of the settings that are text, and whether each may be null."""
    fields: dict[str, bool] = {}
    for name, kind in typing.get_type_hints(section).items():
        kinds = typing.get_args(kind) if isinstance(kind, types.UnionType) else (kind,)
        if is_dataclass(kind):
            fields |= _text_fields(kind, f"{prefix}{name}.")
        elif str in kinds:
            fields[f"{prefix}{name}"] = type(None) in kinds
    return fields


TEXTS = _text_fields(Config)
"""Settings that are text -> whether they may be null."""


def refuse_repeated(overrides: Sequence[str]) -> None:
    """Refuse a key that is given twice with different values: Hydra would take the last.

    Raises:
        PlanError: There is one.
    """
    values: dict[str, str] = {}
    for override in overrides:
        key, _, value = override.lstrip("+~").partition("=")
        if values.setdefault(key, value) != value:
            raise PlanError(
                f"{key} is given twice, as {values[key]} and as {value}; give it once. Several "
                f"values make a sweep: -m {key}={values[key]},{value}."
            )
