"""Conditions on rows: what they select, and that nothing of them is run."""

import numpy as np
import pytest

from fit.data.conditions import LONGEST, as_conditions, join_conditions, rows_that_meet
from fit.errors import RecordError

COLUMNS = {
    "loss": np.array([2.0, 3.0, np.nan, 4.0]),
    "params": np.array([1e7, 1e8, 1e9, 1e10]),
    "router": np.array(["dense", "hash", None, "dense"], dtype=object),
    "train.lr": np.array([0.1, 0.2, 0.3, 0.4]),
    "a-b": np.array([1, 2, 3, 4]),
    "7B": np.array([1, 1, 0, 0]),
}


@pytest.mark.parametrize(
    ("where", "rows"),
    [
        ("loss < 3.5", [0, 1]),
        ("loss < 3.5 & params > 1e7", [1]),
        ("router == 'dense' or params == 1B", [0, 2, 3]),
        ("router != 'dense'", [1, 2]),
        ("not router == 'dense'", [1, 2]),
        ("'as' in router", [1]),
        ("router is None or loss is None", [2]),
        ("train.lr > .15 and a-b < 4", [1, 2]),
        ("`7B` == 1", [0, 1]),
        ("log10(params) % 2 == 0", [1, 3]),
        ("params in [1e7, '1B']", [0, 2]),
        ("1e7 < params <= 1e9", [1, 2]),
        ("-loss > -2.5", [0]),
    ],
)
def test_a_condition_selects_the_rows_that_it_describes(where, rows):
    assert np.flatnonzero(rows_that_meet(where, COLUMNS, 4)).tolist() == rows


@pytest.mark.parametrize(
    ("where", "words"),
    [
        ("router << 1", "'router << 1' has no meaning"),
        ("().__class__.__base__", "has no meaning"),
        ("open('x')", "cannot be called"),
        ("@x > 1", "no complete condition"),
        ("los < 2", "no column los; loss is nearest"),
        ("router == dense", "a text is written 'dense', in quotes"),
        ("router > 3", "a column holds text"),
        ("loss + 1", "not true or false"),
        ("(" * 3000, f"more than {LONGEST} characters"),
        ("(" * 900 + "loss" + ")" * 900, "cannot use --where"),
    ],
)
def test_what_is_no_condition_is_refused_in_words(where, words):
    with pytest.raises(RecordError) as caught:
        rows_that_meet(where, COLUMNS, 4)
    assert words in str(caught.value)
    assert "Visitor" not in str(caught.value)


def test_conditions_are_joined_for_the_record_of_a_fit():
    assert join_conditions(as_conditions(None)) is None
    assert join_conditions(as_conditions("a > 1")) == "a > 1"
    assert join_conditions(as_conditions(["a > 1", "b == 2 or c"])) == "(a > 1) and (b == 2 or c)"
    with pytest.raises(RecordError, match="--where is 5"):
        as_conditions(5)
