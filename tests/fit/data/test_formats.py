"""Files of tables: compression, encodings, forms of JSON, several at once."""

import bz2
import gzip
import json
import lzma

import pytest

from fit.data.columns import melt, name_columns, number_names
from fit.data.formats import find_tables, read_frame
from fit.data.readers import load
from fit.errors import RecordError

TEXT = "params,tokens,loss\n10000000,1000000000,3.5\n30000000,1000000000,3.2\n"
ROWS = [{"params": 1e7, "tokens": 1e9, "loss": 3.5}, {"params": 3e7, "tokens": 1e9, "loss": 3.2}]


@pytest.mark.parametrize("pack", [gzip.compress, bz2.compress, lzma.compress])
@pytest.mark.parametrize("name", ["runs.csv", "runs.csv.gz"])
def test_a_compression_is_found_by_its_content(tmp_path, pack, name):
    (tmp_path / name).write_bytes(pack(TEXT.encode()))
    assert load(tmp_path / name).loss.tolist() == [3.5, 3.2]
    (tmp_path / name).write_bytes(pack(TEXT.encode())[:-5])
    with pytest.raises(RecordError, match=r"cannot read .*runs\.csv"):
        load(tmp_path / name)


@pytest.mark.parametrize(
    "document",
    [ROWS, {"runs": ROWS}, {k: [r[k] for r in ROWS] for k in ROWS[0]},
     {"columns": list(ROWS[0]), "data": [list(r.values()) for r in ROWS]}],
)  # fmt: skip
def test_json_is_read_in_the_forms_that_tables_have(tmp_path, document):
    (tmp_path / "runs.json").write_text(json.dumps(document))
    assert load(tmp_path / "runs.json").loss.tolist() == [3.5, 3.2]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("params,loss,loss\n1,2,3\n", "two columns loss"),
        ("params,loss\n1,2,3\n", "row 1 has 3 cells and the header 2"),
        ("params,loss\n1\n", "row 1 has 1 cells and the header 2"),
        ("", "empty"),
    ],
)
def test_a_csv_that_pandas_would_take_wrongly_is_refused(tmp_path, text, words):
    (tmp_path / "runs.csv").write_text(text)
    with pytest.raises(RecordError, match=words):
        read_frame(tmp_path / "runs.csv")


def test_several_tables_are_one_and_each_is_given_once(tmp_path):
    for size in ("10M", "30M"):
        (tmp_path / f"m-{size}-c4.csv").write_text("tokens,loss\n1e9,3.5\n3e9,3.1\n")
    pattern = str(tmp_path / "m-*.csv")
    table = load(pattern, rename={"params": "m-{file}-*", "unique_tokens": "4.68e9"})
    assert table.params.tolist() == [1e7, 1e7, 3e7, 3e7]
    assert set(table.columns["unique_tokens"]) == {4.68e9}
    with pytest.raises(RecordError, match="given twice"):
        find_tables([pattern, pattern])
    (tmp_path / "m-30M-c4.csv").write_text("tokens,loss\n1e9,3.5\n0,3.1\n")
    with pytest.raises(RecordError, match=r"m-30M-c4\.csv, row 2: tokens is '0"):
        load(pattern, rename={"params": "m-{file}-*"})


def test_a_wide_table_is_melted_by_the_numbers_in_its_names(tmp_path):
    assert number_names(["tokens", "N=53.3M", "N=1e9"]) == {"N=53.3M": 53.3e6, "N=1e9": 1e9}
    (tmp_path / "wide.csv").write_text("tokens,10M,30M\n1e9,3.5,3.2\n3e9,3.3,3.0\n")
    frame = melt(read_frame(tmp_path / "wide.csv")[0], "params", "wide.csv")
    assert frame["params"].tolist() == [1e7, 1e7, 3e7, 3e7]
    assert frame["loss"].tolist() == [3.5, 3.3, 3.2, 3.0]
    with pytest.raises(RecordError, match="--wide params"):
        load(tmp_path / "wide.csv")


def test_names_can_be_swapped(tmp_path):
    (tmp_path / "runs.csv").write_text(TEXT)
    frame = read_frame(tmp_path / "runs.csv")[0]
    swapped = name_columns(frame, {"params": "tokens", "tokens": "params"}, "runs.csv")
    assert swapped["params"].tolist() == [10**9, 10**9]
    assert swapped["tokens"].tolist() == [10**7, 3 * 10**7]
