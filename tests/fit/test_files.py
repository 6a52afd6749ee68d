"""CSV tables that a spreadsheet may open."""

import csv
import io

import pytest

from fit.files import csv_text, escape_formula, unescape_formula

FORMULAS = ["=cmd(1)", "+1", "-1", "-x", "@a", "\tx", "\r=1", " =1", "\n=2", "'=1", "''-x"]


@pytest.mark.parametrize("cell", FORMULAS)
def test_what_a_spreadsheet_would_compute_stays_text_and_reads_back(cell):
    assert escape_formula(cell) == f"'{cell}"
    assert unescape_formula(escape_formula(cell)) == cell


@pytest.mark.parametrize("cell", [-1.5, -1e-3, 3, None, "w64-d2", "a=b", "'tis", "1e-3"])
def test_numbers_and_plain_text_are_left_alone(cell):
    assert escape_formula(cell) == cell
    assert unescape_formula(cell) == cell


def test_rows_come_back_from_the_text_and_names_are_escaped_too():
    text = csv_text([{"run": 'a,"b"', "=x": -1e-3}, {"run": "c", "=x": None}, {"run": "d"}])
    rows = list(csv.reader(io.StringIO(text)))
    assert rows == [["run", "'=x"], ['a,"b"', "-0.001"], ["c", ""], ["d", ""]]


def test_columns_and_the_format_of_numbers_can_be_given():
    rows = [{"a": -1 / 3, "b": "-x"}]
    assert csv_text(rows, ("b", "a", "c"), number_format=".3g") == "b,a,c\n'-x,-0.333,\n"
