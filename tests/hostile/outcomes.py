"""A hostile input and its right outcome.

Each module of this folder makes the cases of one door from a seed. A case states what must come
out: words of a refusal in one line, or a check of what was read. `check_outcome` fails on a
traceback, on a refusal that was not wanted, on an input that was taken and should not have been,
and on a value that is not the one that was meant.
"""

from __future__ import annotations

import io
import traceback
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path

from fit.errors import ScalingError

LONGEST_MESSAGE = 1200
"""Characters of a refusal; longer ones are not read."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Reply:
    """What a door said."""

    code: int
    """0: taken; anything else: refused."""
    out: str
    err: str
    value: object = None
    """What the door returned, where it is a function."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Case:
    """A hostile input; exactly one of `refused` and `taken` is given."""

    name: str
    run: Callable[[Path], object]
    """Offers the input, in an empty folder: a `Reply`, or any value of a function."""
    refused: tuple[str, ...] = ()
    """Words of the refusal: all must stand in its message."""
    taken: Callable[[Reply], None] | None = None
    """Asserts that what was read is what was meant."""


def check_outcome(case: Case, folder: Path) -> None:
    """Offer the input of a case and compare what comes of it with what should."""
    assert bool(case.refused) != (case.taken is not None), "a case has one right outcome"
    reply = offer(case.run, folder)
    assert "Traceback (most recent call last)" not in reply.out + reply.err, reply.err[-2000:]
    if case.taken is not None:
        assert reply.code == 0, f"{case.name}: refused: {reply.err or reply.out}"
        case.taken(reply)
        return
    assert reply.code != 0, f"{case.name}: taken silently: {reply.out[:500]}"
    said = (reply.err or reply.out).strip()
    missing = [words for words in case.refused if words.lower() not in said.lower()]
    assert not missing, f"{case.name}: the refusal lacks {missing}: {said}"
    assert len(said) <= LONGEST_MESSAGE, f"{case.name}: {len(said)} characters: {said[:300]}"


def offer(run: Callable[[Path], object], folder: Path) -> Reply:
    """What a door says to an input; an exception that is not a refusal becomes a traceback."""
    out, err = io.StringIO(), io.StringIO()
    with redirect_stdout(out), redirect_stderr(err):
        try:
            value = run(folder)
        except ScalingError as error:
            return Reply(code=1, out=out.getvalue(), err=str(error))
        except SystemExit as error:
            code = error.code if isinstance(error.code, int) else 0 if error.code is None else 1
            said = error.code if isinstance(error.code, str) else ""
            return Reply(code=code, out=out.getvalue(), err=err.getvalue() + said)
        except Exception:
            return Reply(code=70, out=out.getvalue(), err=traceback.format_exc())
    if isinstance(value, Reply):
        return value
    return Reply(code=0, out=out.getvalue(), err=err.getvalue(), value=value)
