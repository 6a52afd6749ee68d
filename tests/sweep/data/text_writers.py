"""Documents written into every container and compression, for tests."""

import bz2
import csv
import gzip
import io
import json
import lzma
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

CONTAINERS = ("txt", "jsonl", "ndjson", "json", "csv", "tsv", "parquet")
COMPRESSIONS = ("", "gz", "bz2", "xz", "zst")


def contained(texts, kind):
    """The bytes of a container that holds texts; `txt` holds one."""
    rows = [{"id": i, "text": text} for i, text in enumerate(texts)]
    match kind:
        case "txt":
            (text,) = texts
            return text.encode()
        case "json":
            return json.dumps(rows).encode()
        case "jsonl" | "ndjson":
            return "".join(json.dumps(row) + "\n" for row in rows).encode()
        case "csv" | "tsv":
            out = io.StringIO(newline="")
            writer = csv.writer(out, delimiter="\t" if kind == "tsv" else ",")
            writer.writerows([["id", "text"], *([r["id"], r["text"]] for r in rows)])
            return out.getvalue().encode()
        case "parquet":
            sink = io.BytesIO()
            pq.write_table(pa.Table.from_pylist(rows), sink)
            return sink.getvalue()
    raise ValueError(kind)


def compressed(content, compression):
    """Bytes compressed."""
    match compression:
        case "":
            return content
        case "gz":
            return gzip.compress(content)
        case "bz2":
            return bz2.compress(content)
        case "xz":
            return lzma.compress(content)
        case "zst":
            return pa.Codec("zstd").compress(content, asbytes=True)
    raise ValueError(compression)


def write_texts(folder: Path, stem, texts, kind, compression=""):
    """Write texts into one file of a folder, or one each if they are plain; returns the paths."""
    folder.mkdir(parents=True, exist_ok=True)
    suffix = ".".join(["", kind, *([compression] if compression else [])])
    groups = {f"{stem}-{i}": [t] for i, t in enumerate(texts)} if kind == "txt" else {stem: texts}
    paths = []
    for name, group in groups.items():
        paths.append(folder / f"{name}{suffix}")
        paths[-1].write_bytes(compressed(contained(group, kind), compression))
    return paths
