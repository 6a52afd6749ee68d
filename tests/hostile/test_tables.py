"""Files, texts and cells of tables: what is read is what was meant, or one line says why not."""

from __future__ import annotations

import bz2
import gzip
import io
import json
import lzma
from collections.abc import Callable, Mapping

import numpy as np
import pandas as pd
import pytest

from tests.hostile.outcomes import Case, Reply, check_outcome
from tests.hostile.tables import (
    LOSS,
    NAMES,
    PARAMS,
    TOKENS,
    csv_of,
    frame,
    meant,
    refused,
    taken,
)

pytestmark = pytest.mark.slow


def zstandard(data: bytes) -> bytes:
    """Data compressed by the library that is there."""
    import pyarrow

    buffer = pyarrow.BufferOutputStream()
    with pyarrow.CompressedOutputStream(buffer, "zstd") as stream:
        stream.write(data)
    return bytes(buffer.getvalue())


PACK: Mapping[str, Callable[[bytes], bytes]] = {
    "": bytes,
    ".gz": gzip.compress,
    ".bz2": bz2.compress,
    ".xz": lzma.compress,
    ".zst": zstandard,
}


def parquet(table: pd.DataFrame) -> bytes:
    """A frame as parquet."""
    buffer = io.BytesIO()
    table.to_parquet(buffer)
    return buffer.getvalue()


CONTAINERS: Mapping[str, Callable[[], bytes]] = {
    ".csv": lambda: csv_of(frame()).encode(),
    ".tsv": lambda: csv_of(frame(), sep="\t").encode(),
    ".jsonl": lambda: frame().to_json(orient="records", lines=True).encode(),
    ".ndjson": lambda: frame().to_json(orient="records", lines=True).encode(),
    ".json": lambda: frame().to_json(orient="records").encode(),
    ".parquet": lambda: parquet(frame()),
}


def containers() -> list[Case]:
    """Every format in every compression, by its name and by its content."""
    cases = [
        taken(f"{suffix}{packed}", pack(make()), file=f"runs{suffix}{packed}")
        for suffix, make in CONTAINERS.items()
        for packed, pack in PACK.items()
    ]
    plain = CONTAINERS[".csv"]()
    for packed, pack in PACK.items():
        if packed:
            cases.append(taken(f"{packed} without its suffix", pack(plain)))
            cut = pack(plain)[:-9]
            cases.append(refused(f"{packed} cut short", cut, "cannot read", file=f"r.csv{packed}"))
    orients = {
        "array": frame().to_json(orient="records"),
        "columns of lists": json.dumps(frame().to_dict(orient="list")),
        "columns of objects": frame().to_json(orient="columns"),
        "split": frame().to_json(orient="split"),
        "rows under a key": json.dumps({"schema": "x", "runs": frame().to_dict(orient="records")}),
        "objects a line": frame().to_json(orient="records", lines=True),
    }
    cases += [taken(f"json: {n}", text, file="runs.json") for n, text in orients.items()]
    cases.append(taken("an array named jsonl", orients["array"], file="runs.jsonl"))
    cases += [
        taken("plain text named gz", plain, file="runs.csv.gz"),
        taken("a suffix in capitals", plain, file="RUNS.CSV"),
        refused("a zip", b"PK\x03\x04" + plain, "archive", file="runs.csv"),
        refused("a spreadsheet", plain, "spreadsheet", ".csv", file="runs.xlsx"),
        refused("another suffix", plain, "neither a folder of runs nor a table", file="runs.dat"),
        refused("an empty file", "", "empty"),
        refused("a header alone", "params,tokens,loss\n", "no rows"),
        refused("json of one number", "3", "single value", file="runs.json"),
        refused("json of numbers", "[1, 2]", "row 1 is int", file="runs.json"),
        refused("json cut short", '[{"params": 1', "not JSON", file="runs.json"),
        refused("a broken line", '{"params": 1}\n{"params"\n', "line 2", file="runs.jsonl"),
        refused("a key twice", '[{"loss": 1, "loss": 2}]', "'loss' twice", file="runs.json"),
        refused("uneven columns", '{"loss": [1, 2], "params": [1]}', "lengths", file="runs.json"),
        refused("html", "<html><body>404</body></html>", "no rows", file="runs.csv"),
        refused("parquet that is none", b"PAR1xxxx", "cannot read", file="runs.parquet"),
    ]
    return cases


def texts() -> list[Case]:
    """Encodings, separators, headers and rows of csv."""
    plain = csv_of(frame(note="größe"))
    cases = [
        taken(f"in {encoding}", plain.encode(encoding))
        for encoding in ("utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "cp1252")
    ]
    for name, separator in (("semicolons", ";"), ("tabs", "\t"), ("bars", "|")):
        cases.append(taken(f"separated by {name}", csv_of(frame(), sep=separator)))
    lines = csv_of(frame()).splitlines()
    comma = csv_of(frame(), sep=";", decimal=",")
    grouped = frame(params=[f"{int(n):,}" for n in PARAMS], tokens=[f"{int(d):,}" for d in TOKENS])
    points = grouped.map(lambda c: c.replace(",", ".") if isinstance(c, str) else c)
    cases += [
        taken("decimal commas", comma),
        taken("decimal commas between tabs", csv_of(frame(), sep="\t", decimal=",")),
        taken(
            "decimal commas in quotes", csv_of(frame(loss=[str(v).replace(".", ",") for v in LOSS]))
        ),
        taken("digits grouped by commas", csv_of(grouped)),
        taken("digits grouped by points", csv_of(points, sep=";", decimal=",")),
        taken(
            "three decimals after a comma",
            "params;tokens;loss\n"
            + "".join(
                f"{int(n)};{int(d)};{f'{v:.3f}'.replace('.', ',')}\n"
                for n, d, v in zip(PARAMS, TOKENS, LOSS, strict=True)
            ),
            meant(loss=np.round(LOSS, 3)),
        ),
        taken("Excel's declaration", "sep=;\n" + csv_of(frame(), sep=";")),
        taken("comments above", "# made on a Monday\n# by hand\n" + csv_of(frame())),
        taken("a header behind #", "# " + csv_of(frame().drop(columns="run"))),
        taken("blank lines", csv_of(frame()).replace("\n", "\n\n")),
        taken("Windows's line ends", csv_of(frame()).replace("\n", "\r\n")),
        taken("a trailing comma", "\n".join(line + "," for line in lines)),
        taken(
            "a trailing comma in rows alone", "\n".join([lines[0], *(s + "," for s in lines[1:])])
        ),
        taken("an index without a name", str(frame().to_csv())),
        taken("blanks around cells", csv_of(frame()).replace(",", " , ")),
        taken(
            "capitals in names",
            csv_of(frame()).replace("params,tokens,loss", "Params,TOKENS, Loss "),
        ),
        taken("quotes around all", csv_of(frame(), quoting=1)),
        taken("a quoted comma", csv_of(frame(note='a, "b"'))),
        taken("a quoted line end", csv_of(frame(note="a\nb"))),
        refused("NUL bytes", csv_of(frame()).encode()[:300] + b"\x00" * 9, "NUL"),
        refused("a row that is too long", csv_of(frame()) + "a,1,2,3,4\n", "5 cells", "header 4"),
        refused("a row that is too short", csv_of(frame()) + "a,1\n", "2 cells", "header 4"),
        refused("a row name without header", "params,tokens,loss\nr1,1e7,1e9,3.1\n", "4 cells"),
        refused("no header", "\n".join(lines[1:]), "no column"),
        refused("numbers as header", "1e7,1e9,3.1\n1e7,3e9,3.0\n", "header"),
        refused(
            "two columns of one name", "params,tokens,loss,loss\n1e7,1e9,3,4\n", "two columns loss"
        ),
        refused("two names alike", "Params,PARAMS,tokens,loss\n1,2,3,4\n", "Params and PARAMS"),
        refused("an unfinished merge", "<<<<<<< HEAD\n" + csv_of(frame()), "merge"),
        refused("a total", csv_of(frame()) + "Total,9e9,9e12,60\n", "'total'", "--where"),
        refused("a mean", csv_of(frame()) + "mean,1e8,1e10,3\n", "'mean'", "--where"),
        taken(
            "a total left out",
            csv_of(frame()) + "Total,9e9,9e12,60\n",
            meant(drop=1),
            where="run != 'Total'",
        ),
        taken("the guard of formulas", csv_of(frame(run=["'=1+1", *NAMES[1:]]))),
    ]
    return cases


def cells() -> list[Case]:
    """Numbers in every dress, and cells that are none."""
    dresses: dict[str, Callable[[float], str]] = {
        "M": lambda n: f"{n / 1e6:g}M",
        "B": lambda n: f"{n / 1e9:g}B",
        "small letters": lambda n: f"{n / 1e6:g}m",
        "a blank and a letter": lambda n: f"{n / 1e9:g} b",
        "thousands": lambda n: f"{n / 1e3:.0f}k",
        "an exponent": lambda n: f"{n:.6e}",
        "a large exponent": lambda n: f"{n:.6E}",
        "underscores": lambda n: f"{int(n):_}",
        "blanks": lambda n: f"{int(n):,}".replace(",", " "),
        "hard blanks": lambda n: f"{int(n):,}".replace(",", "\u00a0"),
        "narrow blanks": lambda n: f"{int(n):,}".replace(",", "\u202f"),
        "apostrophes": lambda n: f"{int(n):,}".replace(",", "'"),
        "a sign": lambda n: f"+{int(n)}",
        "a point at the end": lambda n: f"{int(n)}.",
    }
    cases = [
        taken(f"params with {n}", csv_of(frame(params=[dress(v) for v in PARAMS])))
        for n, dress in dresses.items()
    ]
    cases += [
        taken(
            "texts in json",
            frame(params=[f"{v / 1e6:g}M" for v in PARAMS], loss=LOSS.astype(str)).to_json(
                orient="records"
            ),
            file="runs.json",
        ),
        taken(
            "units of columns",
            csv_of(frame(params=PARAMS / 1e6, tokens=TOKENS / 1e9)),
            unit=["params=M", "tokens=B"],
        ),
        refused(
            "a unit twice",
            csv_of(frame(params=[f"{v / 1e6:g}M" for v in PARAMS])),
            "params is '10M'",
            unit=["params=M"],
        ),
    ]
    bad = [
        "many",
        "$10",
        "10%",
        "0x10",
        "1e7M",
        "٣",
        "-5",
        "0",
        "inf",
        "",
        "nan",
        "True",
        "1e400",
        "1,2,3",
        "3,12",
        "2024-01-01",
        "1/2",
        "≈5",
        "10 M params",
        "1e7 1e8",
    ]
    for cell in bad:
        params = [*map(str, PARAMS.astype(int)[:-1]), cell]
        table = csv_of(frame(params=params))
        cases.append(refused(f"params of '{cell}'", table, "row 20: params is", "--where"))
    for cell in ("", "nan", "NaN", "NA", "N/A", "null", "None", "-", "--", "inf", "Infinity"):
        cases.append(
            taken(
                f"loss of '{cell}'",
                csv_of(frame(loss=[*map(str, LOSS[:-1]), cell])),
                meant(slice(0, 19)),
            )
        )
    for cell in ("OOM", "3.2M", "-1", "0", "3.1 nats", "$3", "40%"):
        cases.append(
            refused(
                f"loss of '{cell}'",
                csv_of(frame(loss=[*map(str, LOSS[:-1]), cell])),
                "row 20: loss is",
                "--where",
            )
        )
    ambiguous = frame(loss=["3,123"] * 20)
    cases.append(
        refused(
            "a comma of two meanings",
            csv_of(ambiguous.assign(tokens=range(1, 21))),
            "3,123",
            "comma",
        )
    )
    for column in ("width", "depth", "lr", "vocab", "loss_se", "seed", "unique_tokens", "mfu"):

        def left_out(reply: Reply, column: str = column) -> None:
            meant()(reply)
            assert column not in reply.value.columns
            assert any(column in remark for remark in reply.value.remarks)

        cases.append(taken(f"text in {column}", csv_of(frame(**{column: "d512"})), left_out))
    return cases


CASES = [*containers(), *texts(), *cells()]


@pytest.mark.parametrize("case", CASES, ids=[c.name[:60] for c in CASES])
def test_a_table_is_read_as_it_was_meant_or_refused_in_words(case, tmp_path):
    check_outcome(case, tmp_path)
