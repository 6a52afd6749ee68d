"""Which split of a data set a file belongs to, by the names of the file and its folders."""

from __future__ import annotations

import re
from pathlib import PurePath

SPLITS = {
    "train": "train|training",
    "valid": "val|valid|validation|dev|development|eval|evaluation|held[-_ ]?out|hold[-_ ]?out",
    "test": "test|testing",
}
"""Words that name each split, as regular expressions."""
_WORDS = {name: re.compile(rf"(?<![a-z])(?:{words})(?![a-z])") for name, words in SPLITS.items()}
_CAMEL = re.compile(r"(?<=[a-z])(?=[A-Z])")


def split_of(path: PurePath) -> str | None:
    """The split that a path names: `train`, `valid`, `test`, or None where it names none.

    The innermost name decides, so that `test_run/train.bin` is a training file and
    `train/val/0.bin` is not. Where one name has several of the words, a held-out split wins:
    leaving a file out of training is the smaller harm.

    Args:
        path: Relative to the folder of the data set: what lies above it says nothing of splits.
    """
    for part in reversed(path.parts):
        name = _CAMEL.sub("_", part).lower()
        for split in ("valid", "test", "train"):
            if _WORDS[split].search(name):
                return split
    return None
