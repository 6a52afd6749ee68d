"""`python -m sweep` and `isoflop sweep`: say what starts, then import what it takes."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

WIDTH = 80


def main(arguments: Sequence[str] | None = None, *, prog: str = "python -m sweep") -> None:
    """Print one line before the imports, which take a second or more; then `sweep.app: main`.

    Args:
        arguments: Of the command; None for those of this process.
        prog: The command's name in messages.
    """
    words = sys.argv[1:] if arguments is None else list(arguments)
    if trains(words) and os.environ.get("RANK", "0") == "0":  # one line for all ranks of torchrun
        line = f"planning {' '.join(words) or 'the default run'}"
        print(line if len(line) <= WIDTH else f"{line[: WIDTH - 1]}…", file=sys.stderr, flush=True)
    from sweep import app

    app.main(words, prog=prog)


def trains(words: Sequence[str]) -> bool:
    """Whether the words are overrides, not the name of a command or a call for information."""
    if words and words[0].isalpha():
        return False
    options = [w for w in words if w.startswith("-") and not w.startswith("--config-dir")]
    return set(options) <= {"-m", "--multirun"}


if __name__ == "__main__":
    main()
