"""Tables that a spreadsheet may open."""

import csv
import io

import pytest

from fit.files import csv_text, guarded


@pytest.mark.parametrize("cell", ["=1+1", "+1", "-1", "@SUM(A1)", "\tx", "\r=1", " =1", "\n=2"])
def test_what_a_spreadsheet_would_compute_stays_text(cell):
    assert guarded(cell) == f"'{cell}"


def test_numbers_and_plain_text_are_left_alone():
    assert [guarded(v) for v in (-1.5, 3, "w64-d2", "a=b")] == [-1.5, 3, "w64-d2", "a=b"]


def test_rows_come_back_from_the_text_and_names_are_guarded_too():
    text = csv_text([{"run": 'a,"b"', "=x": -1.0}, {"run": "c"}])
    assert list(csv.reader(io.StringIO(text))) == [["run", "'=x"], ['a,"b"', "-1.0"], ["c", ""]]
