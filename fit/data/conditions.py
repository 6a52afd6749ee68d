"""Conditions on the rows of a table, such as `loss < 5 and router == 'dense'`.

A condition is an expression of columns, numbers and texts in quotes with comparisons, `and`, `or`,
`not`, `in`, arithmetic and a few functions. It is parsed and computed here: nothing of it reaches
an interpreter, so that a condition may come from a stranger.

A column's name that is no word, such as `train.lr` or `val/loss`, may be written as it is where
nothing else can be meant, and always in backticks.
"""

from __future__ import annotations

import ast
import keyword
import operator
import re
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from difflib import get_close_matches
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fit.data.cells import MISSING
from fit.errors import QueryError, RecordError
from fit.quantities import parse_count

LONGEST = 2000
"""Characters of a condition."""
COMPARISONS: Mapping[type, Callable[[Any, Any], Any]] = {
    ast.Eq: operator.eq, ast.NotEq: operator.ne, ast.Lt: operator.lt, ast.LtE: operator.le,
    ast.Gt: operator.gt, ast.GtE: operator.ge,
}  # fmt: skip
ARITHMETIC: Mapping[type, Callable[[Any, Any], Any]] = {
    ast.Add: np.add, ast.Sub: np.subtract, ast.Mult: np.multiply, ast.Div: np.divide,
    ast.FloorDiv: np.floor_divide, ast.Mod: np.mod, ast.Pow: np.power,
}  # fmt: skip
FUNCTIONS: Mapping[str, Callable[[Any], Any]] = {
    "abs": np.abs, "exp": np.exp, "log": np.log, "log2": np.log2, "log10": np.log10,
    "sqrt": np.sqrt, "round": np.round,
}  # fmt: skip
SIGNS: Mapping[str, str] = {
    "&": " and ", "&&": " and ", "|": " or ", "||": " or ", "~": " not ", "!": " not ", "=": "==",
}  # fmt: skip
"""Signs that other languages and pandas use, as Python's."""
Mask = NDArray[np.bool_]


class _Misuse(ValueError):
    """A condition that cannot be used, with the reason in words."""


def as_conditions(where: str | Sequence[str] | None) -> tuple[str, ...]:
    """The conditions of an option that may be repeated, all of which must hold."""
    if where is None:
        return ()
    texts = (where,) if isinstance(where, str) else where
    if not isinstance(texts, Sequence) or not all(isinstance(text, str) for text in texts):
        raise RecordError(f"--where is {where!r}; conditions in text are needed, as 'loss < 5'.")
    return tuple(texts)


def rows_that_meet(where: str, columns: Mapping[str, Any], rows: int) -> Mask:
    """Which rows meet a condition, (rows,).

    Args:
        where: The condition.
        columns: Cells of each column by name, (rows,), numbers or of any type.
        rows: Number of rows.

    Raises:
        RecordError: It cannot be used; the message says why, in words.
    """
    try:
        if len(where) > LONGEST:
            raise _Misuse(f"it has more than {LONGEST} characters")
        text, names = _rewrite(where, columns)
        with np.errstate(all="ignore"), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of Python about odd texts in quotes
            tree = ast.parse(text.strip(), mode="eval").body
            return _Evaluation(columns, names, rows).mask(tree)
    except _Misuse as error:
        reason = str(error)
    except (SyntaxError, ValueError, TypeError, OverflowError) as error:
        reason = f"it is no complete condition ({getattr(error, 'msg', None) or error})"
    except (RecursionError, MemoryError):
        reason = "it is nested too deeply"
    listed = ", ".join(list(map(str, columns))[:12]) + (" ..." if len(columns) > 12 else "")
    raise RecordError(
        f"cannot use --where '{where[:200]}': {reason}. Such as \"loss < 5\" or "
        f"\"router == 'dense'\"; columns are {listed}."
    )


def _rewrite(where: str, columns: Mapping[str, Any]) -> tuple[str, dict[str, str]]:
    """The condition in Python's grammar, and the columns that its placeholders stand for."""
    known = [str(c) for c in columns if _is_special(str(c), columns)]
    special = "|".join(re.escape(c) for c in sorted(known, key=len, reverse=True)) or r"(?!)"
    names: dict[str, str] = {}

    def placeholder(name: str) -> str:
        names[f"_column_{len(names)}"] = name
        return f"_column_{len(names) - 1}"

    def replace(match: re.Match[str]) -> str:
        if match["quoted"]:
            return match["quoted"]
        if match["ticked"] or match["special"]:
            return placeholder(match["ticked"] or match["special"])
        if match["count"]:
            return repr(parse_count(match["count"]))
        return SIGNS[match["sign"]]

    pattern = (
        r"(?P<quoted>'(?:[^'\\]|\\.)*'|\"(?:[^\"\\]|\\.)*\")|`(?P<ticked>[^`]+)`"
        rf"|(?<![\w./])(?P<special>{special})(?![\w/]|\.\w)"
        r"|(?<![\w.])(?P<count>[0-9][0-9_]*\.?[0-9]*[kKmMbBgGtT])(?!\w)"
        r"|(?P<sign>&&?|\|\|?|~|!(?!=)|(?<![=<>!])=(?!=))"
    )
    return re.sub(pattern, replace, where), names


def _is_special(name: str, columns: Mapping[str, Any]) -> bool:
    """Whether a name is no word, and no arithmetic of other columns either."""
    if name.isidentifier() and not keyword.iskeyword(name):
        return False
    words = [w for w in re.split(r"[^\w]+", name) if w]
    arithmetic = all(w in columns or w.isdigit() for w in words)
    return bool(re.match(r"[^\W\d]", name)) and not arithmetic and "`" not in name


class _Evaluation:
    """The columns of a table, and the values of expressions of them."""

    def __init__(self, columns: Mapping[str, Any], names: Mapping[str, str], rows: int) -> None:
        self.columns, self.names, self.rows = columns, names, rows

    def mask(self, node: ast.expr) -> Mask:
        """An expression that is true or false for each row."""
        value = self.value(node)
        if isinstance(value, np.ndarray) and value.dtype == np.bool_:
            return value
        if isinstance(value, np.ndarray) and value.dtype == object:
            truth = {True: True, False: False, None: False}
            if all(v in truth or v != v for v in value.tolist()):
                return np.array([truth.get(v, False) for v in value.tolist()], dtype=bool)
        if isinstance(value, bool | np.bool_):
            return np.full(self.rows, bool(value))
        raise _Misuse("it is not true or false for each run")

    def value(self, node: ast.expr) -> Any:
        """A number, a text, a list of them, or an array of one for each row."""
        if isinstance(node, ast.Constant):
            if node.value is None or isinstance(node.value, bool | str):
                return node.value
            if isinstance(node.value, int | float):
                return np.float64(node.value)
        elif isinstance(node, ast.List | ast.Tuple | ast.Set):
            return [self.value(item) for item in node.elts]
        elif isinstance(node, ast.Name):
            return self._column(self.names.get(node.id, node.id))
        elif isinstance(node, ast.Attribute):
            return self._column(_dotted(node))
        elif isinstance(node, ast.BoolOp):
            parts = [self.mask(part) for part in node.values]
            join = np.logical_and if isinstance(node.op, ast.And) else np.logical_or
            return np.asarray(join.reduce(parts), dtype=bool)
        elif isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not):
            return ~self.mask(node.operand)
        elif isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub | ast.UAdd):
            number = _numbers(self.value(node.operand))
            return -number if isinstance(node.op, ast.USub) else number
        elif isinstance(node, ast.BinOp) and type(node.op) in ARITHMETIC:
            left, right = _numbers(self.value(node.left)), _numbers(self.value(node.right))
            return ARITHMETIC[type(node.op)](left, right)
        elif isinstance(node, ast.Compare):
            return self._compare(node)
        elif isinstance(node, ast.Call):
            return self._call(node)
        raise _Misuse(f"'{_source(node)}' has no meaning in a condition")

    def _column(self, name: str) -> Any:
        """A column by its name, or one that differs by capitals alone."""
        alike = [c for c in self.columns if str(c).casefold() == name.casefold()]
        if name in self.columns or len(alike) == 1:
            cells = np.asarray(self.columns[name if name in self.columns else alike[0]])
            return cells.astype(str) if cells.dtype.kind in "mM" else cells  # dates as ISO 8601
        if name.lower() in ("true", "false"):
            return name.lower() == "true"
        near = get_close_matches(name, map(str, self.columns), n=1)
        hint = f"; {near[0]} is nearest" if near else f"; a text is written '{name}', in quotes"
        raise _Misuse(f"there is no column {name}{hint}")

    def _compare(self, node: ast.Compare) -> Mask:
        """A chain of comparisons, all of which must hold."""
        held = np.ones(self.rows, dtype=bool)
        left = self.value(node.left)
        for sign, item in zip(node.ops, node.comparators, strict=True):
            right = self.value(item)
            inside = isinstance(sign, ast.In | ast.NotIn)
            if isinstance(sign, ast.Is | ast.IsNot) and right is not None:
                raise _Misuse("'is' needs None; compare values with ==")
            if right is None or left is None:
                one = _missing(left if right is None else right, self.rows)
            elif isinstance(right, list):
                one = np.zeros(self.rows, dtype=bool)
                for option in right:
                    one |= _compared(operator.eq, left, option, self.rows)
            elif inside and isinstance(left, str) and isinstance(right, np.ndarray):
                one = np.array([isinstance(c, str) and left in c for c in right.tolist()], bool)
            elif inside:
                raise _Misuse("'in' needs a list, such as depth in [2, 4], or 'text' in column")
            else:
                held &= _compared(COMPARISONS[type(sign)], left, right, self.rows)
                left = right
                continue
            negated = isinstance(sign, ast.NotIn | ast.NotEq | ast.IsNot)
            if not (inside or isinstance(sign, ast.Eq | ast.NotEq | ast.Is | ast.IsNot)):
                raise _Misuse("a list and None are compared by ==, !=, in and not in alone")
            held &= ~one if negated else one
            left = right
        return held

    def _call(self, node: ast.Call) -> Any:
        """A function of one number."""
        name = node.func.id if isinstance(node.func, ast.Name) else ""
        if name not in FUNCTIONS or len(node.args) != 1 or node.keywords:
            raise _Misuse(
                f"'{_source(node)}' cannot be called; functions are {', '.join(FUNCTIONS)} of one "
                "number, and a part of a text is found by 'part' in column"
            )
        return FUNCTIONS[name](_numbers(self.value(node.args[0])))


def _compared(compare: Callable[[Any, Any], Any], left: Any, right: Any, rows: int) -> Mask:
    """Two values compared as numbers if one of them is a number, as texts if both are text."""
    if isinstance(left, list):
        raise _Misuse("a list stands on the right, such as depth in [2, 4]")
    if _is_text(left) and _is_text(right):
        pair = [
            [c if isinstance(c, str) else None if _absent(c) else str(c) for c in _cells(v, rows)]
            for v in (left, right)
        ]
        different = compare is operator.ne
        return np.array(
            [
                different if a is None or b is None else compare(a, b)
                for a, b in zip(*pair, strict=True)
            ],
            dtype=bool,
        )
    held = compare(_numbers(left), _numbers(right))
    return np.broadcast_to(np.asarray(held, dtype=bool), (rows,)).copy()


def _numbers(value: Any) -> Any:
    """A value as numbers, NaN where a cell is none.

    Raises:
        _Misuse: It is text of which nothing is a number.
    """
    if isinstance(value, bool | np.bool_):
        return np.float64(value)
    if isinstance(value, str):
        try:
            return np.float64(parse_count(value))
        except QueryError:
            raise _Misuse(f"'{value}' is text and is compared with numbers") from None
    if isinstance(value, list) or value is None:
        raise _Misuse("a list or None is no number")
    array = np.asarray(value)
    if array.dtype != object and array.dtype.kind not in "USTMm":
        return array.astype(np.float64)
    numbers = np.array([_number(c) for c in array.tolist()], dtype=np.float64)
    if array.size and np.isnan(numbers).all() and not all(map(_absent, array.tolist())):
        text = next(c for c in array.tolist() if not _absent(c))
        raise _Misuse(f"a column holds text ('{text}'): compare it with a text in quotes")
    return numbers


def _number(cell: Any) -> float:
    """A cell as a number; NaN if it is none."""
    try:
        return float(cell)
    except (TypeError, ValueError):
        try:
            return parse_count(str(cell))
        except QueryError:
            return np.nan


def _is_text(value: Any) -> bool:
    """Whether a value is text, or a column that has any."""
    if isinstance(value, np.ndarray):
        return value.dtype.kind in "UST" or (
            value.dtype == object and any(isinstance(c, str) for c in value.tolist())
        )
    return isinstance(value, str)


def _cells(value: Any, rows: int) -> list[Any]:
    """A value for each row."""
    return value.tolist() if isinstance(value, np.ndarray) else [value] * rows


def _missing(value: Any, rows: int) -> Mask:
    """Where a value is missing."""
    return np.array([_absent(c) for c in _cells(value, rows)], dtype=bool)


def _absent(cell: Any) -> bool:
    """Whether a cell holds nothing."""
    return cell is None or cell != cell or (isinstance(cell, str) and cell.lower() in MISSING)


def _dotted(node: ast.expr) -> str:
    """The name that a chain of attributes spells.

    Raises:
        _Misuse: It is no chain of names.
    """
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Attribute):
        return f"{_dotted(node.value)}.{node.attr}"
    raise _Misuse(f"'{_source(node)}' has no meaning in a condition")


def _source(node: ast.AST) -> str:
    """The text of a part of a condition, shortened."""
    return ast.unparse(node)[:60]


def join_conditions(conditions: Iterable[str]) -> str | None:
    """Conditions as one text, for a document; None for none."""
    texts = list(conditions)
    return texts[0] if len(texts) == 1 else " and ".join(f"({t})" for t in texts) or None
