"""The split that the name of a file or folder says."""

from pathlib import PurePath

import pytest

from sweep.data.splits import split_of


@pytest.mark.parametrize(
    ("path", "split"),
    [
        ("train.bin", "train"),
        ("val.bin", "valid"),
        ("data/validation-00000-of-00001.parquet", "valid"),
        ("fineweb_val_000000.bin", "valid"),
        ("TinyStoriesV2-GPT4-valid.txt", "valid"),
        ("dev/a.jsonl.gz", "valid"),
        ("eval.txt", "valid"),
        ("c4.held-out.bin", "valid"),
        ("myValid.bin", "valid"),
        ("test/0001.txt", "test"),
        ("train/val/0.bin", "valid"),
        ("test_run/train.bin", "train"),
        ("train-valid.bin", "valid"),
        ("values.bin", None),
        ("valley/evaluated/tests/devices/contest.txt", None),
        ("retrained.bin", None),
    ],
)
def test_words_in_names_of_files_and_folders_say_the_split(path, split):
    assert split_of(PurePath(path)) == split
