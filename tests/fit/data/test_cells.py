"""Cells as numbers, and losses in their units."""

import math

import numpy as np
import pandas as pd
import pytest

from fit.data.cells import (
    convert_errors,
    convert_loss,
    read_numbers,
    refuse_perplexity,
    typed_columns,
)
from fit.errors import RecordError

N = np.repeat([1e7, 3e7, 1e8, 3e8, 1e9], 4)
D = np.tile([1e9, 3e9, 1e10, 3e10], 5)


@pytest.mark.parametrize(
    ("cell", "number"),
    [("7B", 7e9), ("1.3 b", 1.3e9), ("10,000,000", 1e7), ("10 000 000", 1e7), ("1e9", 1e9),
     ("0.5M", 5e5), ("1'000'000", 1e6), ("10_000", 1e4)],
)  # fmt: skip
def test_a_count_is_read_in_every_dress(cell, number):
    values, unread = read_numbers(pd.Series([cell], dtype=object), "params")
    assert (values[0], unread[0]) == (number, False)


@pytest.mark.parametrize("cell", ["3,123", "$5", "5%", "many", "1e7M", "0x10", True, "٣"])
def test_what_is_no_number_or_two_is_not_read(cell):
    values, unread = read_numbers(pd.Series([cell], dtype=object), "params")
    assert unread[0]


def test_a_unit_stands_in_the_cell_or_in_the_option_but_not_in_both():
    cells = pd.Series(["7B"], dtype=object)
    assert read_numbers(cells, "params", scaled=True)[1][0]
    assert read_numbers(cells, "loss")[1][0]


@pytest.mark.parametrize(
    ("cells", "semicolon", "numbers"),
    [
        (["3,45", "2,9"], True, [3.45, 2.9]),
        (["3,451", "2,911"], True, [3.451, 2.911]),
        (["1.000", "12.500"], True, [1000, 12500]),
        (["10,000,000", "500,000"], False, [10_000_000, 500_000]),
    ],
)
def test_commas_and_points_are_read_by_what_the_other_cells_show(cells, semicolon, numbers):
    columns = {"x": cells, "loss": ["3,45", "2,9"] if semicolon else ["3.45", "2.9"]}
    typed = typed_columns(columns, semicolon=semicolon)
    assert typed["x"].tolist() == numbers
    assert typed["loss"].tolist() == [3.45, 2.9]


def test_a_comma_of_two_meanings_stays_text():
    typed = typed_columns({"x": ["3,451", "2,911"], "y": ["1", "2"]}, semicolon=False)
    assert typed["x"].tolist() == ["3,451", "2,911"]


def test_losses_and_their_errors_are_converted_together():
    loss = np.array([2.0, 3.0])
    assert convert_loss(np.exp(loss), "ppl") == pytest.approx(loss)
    assert convert_errors(0.1 * np.exp(loss), loss, "ppl") == pytest.approx(0.1)
    assert convert_loss(loss / math.log(2), "bits") == pytest.approx(loss)
    assert convert_loss(loss, "bpb") is loss


@pytest.mark.parametrize("noise", [0.0, 0.005])
@pytest.mark.parametrize("entropy", [0.5, 0.9, 1.7])
def test_a_perplexity_is_refused_and_a_loss_in_nats_is_not(entropy, noise):
    wobble = 1 + noise * np.sin(7.0 * np.arange(20) ** 2)
    loss = (entropy + 400 / N**0.34 + 900 / D**0.36) * wobble
    refuse_perplexity(N, D, loss, "runs")
    with pytest.raises(RecordError, match="--unit loss=ppl"):
        refuse_perplexity(N, D, np.exp(loss), "runs")
