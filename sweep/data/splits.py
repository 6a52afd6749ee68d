"""Which split of a data set a file belongs to, by the names of the file and its folders."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path, PurePath

from fit.errors import PlanError
from fit.quantities import count_noun

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


def split_files(names: Sequence[str], root: Path) -> tuple[list[int], list[int], list[int]]:
    """Which files are trained on, give the held-out sample, and are left out.

    The sample is drawn from validation files, from test files where there are none; neither is
    trained on.

    Args:
        names: Relative to the folder of the data set; an empty one says nothing.
        root: The folder, for messages.

    Returns:
        Numbers of the files; without a held-out file all are trained on.

    Raises:
        PlanError: All are validation or test data.
    """
    splits = [split_of(PurePath(name)) for name in names]
    valid, test = ([i for i, s in enumerate(splits) if s == kind] for kind in ("valid", "test"))
    train = [i for i, s in enumerate(splits) if s not in ("valid", "test")]
    if names and not train:
        raise PlanError(
            f"all {count_noun(len(names), 'file')} below {root} are validation or test data by "
            f"their names ({names[0]}); nothing is left to train on. Train on all of them with "
            "data.splits=none, or give a single file as data.path."
        )
    return (train, valid, test) if valid else (train, test, [])
