"""The data sources `text` and `hf`: documents of files and of Hugging Face data sets.

`text` reads a file or a folder of .txt, .md, .rst, .jsonl and .parquet, plain or as .gz. A plain
file is one document; a line of .jsonl and a row of .parquet are one each.

`hf` reads a data set by its name on the hub, or from a folder that `save_to_disk` wrote or that
holds files `load_dataset` reads. A row is a document.

Both are tokenised once into the cache (`sweep.data.corpus`); afterwards a data set of the hub can
be used without a network.
"""

from __future__ import annotations

import codecs
import functools
import gzip
import hashlib
import io
import json
import os
import re
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from fit.errors import PlanError
from sweep.cache import cache_folder, compute_once, digest, stamp
from sweep.config import DataConfig
from sweep.data.corpus import Document, document_of, open_corpus, pieces_of
from sweep.data.rows import TokenizedCorpus
from sweep.data.shards import existing_path

BLOCK_BYTES = 1 << 20
ARCHIVES = (".tar", ".tgz", ".zip", ".bz2", ".xz", ".zst", ".7z")
TABLES = (".jsonl", ".parquet")
DEFAULT = "roneneldan/TinyStories"
ROWS = 1000
STREAMED_TOKENS = 1 << 25
"""Least tokens read from a stream: smaller caps share one corpus, and so one held-out sample."""


def open_text(config: DataConfig, seq_len: int) -> TokenizedCorpus:
    """Open the user's text.

    Raises:
        PlanError: The path does not exist, no file matches the pattern, or a file cannot be read.
    """
    root = existing_path(config)
    files = [root] if root.is_file() else find_files(root, config.pattern)
    cache = cache_folder(config.cache)
    hashes = compute_once(cache, ["files", stamp(files)], lambda: [hash_of(f) for f in files])
    return open_corpus(
        TextFiles(
            name=f"text:{root.resolve().name}",
            files=tuple(files),
            hashes=tuple(hashes),
            column=config.column,
        ),
        config,
        seq_len,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class TextFiles:
    """Documents of files, ordered by path."""

    name: str
    files: tuple[Path, ...]
    hashes: tuple[str, ...]
    """Hash of the decompressed content of each file."""
    column: str
    limit: int | None = None

    @property
    def identity(self) -> Any:
        kinds = [table_suffix(file) or ".txt" for file in self.files]
        tables = [self.column] if set(kinds) & set(TABLES) else []
        return ["text", digest([list(self.hashes), kinds]), *tables]

    def __iter__(self) -> Iterator[Document]:
        for file, content in zip(self.files, self.hashes, strict=True):
            yield from _documents(file, int(content[:16], 16), self.column)

    def sample(self) -> Iterator[str]:
        """Text of all files in the order of their hashes, independent of their names."""
        for content, file in sorted(zip(self.hashes, self.files, strict=True)):
            for document in _documents(file, int(content[:16], 16), self.column):
                yield from document.pieces


def find_files(root: Path, pattern: str) -> list[Path]:
    """Find the files below a folder that match one of the globs; hidden files are left out.

    Args:
        root: The folder.
        pattern: Globs, separated by commas, semicolons, bars or spaces; `!glob` leaves files out.

    Raises:
        PlanError: No file matches, or an exclusion matches none.
    """
    globs = [g for g in re.split(r"[,;|\s]+", pattern) if g]
    names = sorted(_list_files(root))
    matches = {g: {n for n in names if _regex(g.lstrip("!")).fullmatch(n)} for g in globs}
    for glob in globs:
        if glob[0] == "!" and not matches[glob]:
            raise PlanError(
                f"data.pattern excludes '{glob[1:]}', which no file below {root} matches; correct "
                "it ('!**/' in front matches at any depth) or remove it."
            )
    chosen = set[str]().union(*(matches[g] for g in globs if g[0] != "!"))
    chosen -= set[str]().union(*(matches[g] for g in globs if g[0] == "!"))
    files = [root / name for name in names if name in chosen]
    if not files:
        kinds = Counter(os.path.splitext(name)[1] or "no suffix" for name in names)
        common = ", ".join(f"{n} of {kind}" for kind, n in kinds.most_common(4))
        raise PlanError(
            f"no file below {root} matches data.pattern='{pattern}'; it holds "
            f"{common or 'no files'}. Correct data.pattern or data.path."
        )
    return files


def _list_files(root: Path) -> Iterator[str]:
    """Relative paths of the files below a folder, without hidden ones.

    Three times as fast as `Path.glob` on 3,000 files; a plan lists them for every cell of a grid.
    """
    for folder, folders, names in os.walk(root):
        folders[:] = [f for f in folders if f[0] != "."]
        inside = os.path.relpath(folder, root).replace(os.sep, "/")
        for name in (n for n in names if n[0] != "."):
            yield name if inside == "." else f"{inside}/{name}"


@functools.cache  # asked for every file: of 20,000 that was half of the time
def _regex(glob: str) -> re.Pattern[str]:
    """A glob as a regular expression; case is ignored, `**` is any number of folders."""
    meaning = {"**/": "(?:.*/)?", "**": ".*", "*": "[^/]*", "?": "[^/]"}
    parts = re.split(r"(\*\*/|\*\*|\*|\?)", glob.removeprefix("./"))
    return re.compile("".join(meaning.get(p, re.escape(p)) for p in parts), re.IGNORECASE)


def hash_of(path: Path) -> str:
    """Hash of the decompressed content of a file."""
    digest = hashlib.blake2b(digest_size=8)
    with _reading(path), _open(path) as stream:
        while block := stream.read(BLOCK_BYTES):
            digest.update(block)
    return digest.hexdigest()


def table_suffix(path: Path) -> str | None:
    """`.jsonl` or `.parquet` if a file holds many documents, also before `.gz`; else None."""
    names = [s.lower() for s in path.suffixes]
    name = names[-2] if names[-1:] == [".gz"] and len(names) > 1 else (names or [""])[-1]
    return name if name in TABLES else None


def _documents(path: Path, key: int, column: str) -> Iterator[Document]:
    """Documents of one file."""
    kind = table_suffix(path)
    if kind is None:
        yield Document(key=key, pieces=_pieces(path))
        return
    texts = _json_lines(path, column) if kind == ".jsonl" else _parquet(path, column)
    for text in texts:
        yield document_of(text)


def _pieces(path: Path) -> Iterator[str]:
    """Text of a plain file in pieces."""
    suffixes = [s.lower() for s in path.suffixes]
    if set(suffixes) & set(ARCHIVES):
        raise PlanError(
            f"{path} is an archive, which is not read; unpack it, or exclude it: "
            f"data.pattern='... !**/{path.name}'."
        )
    with _reading(path), _open(path) as raw:
        head = raw.read(4)
        raw.seek(0)
        wide = head.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
        encoding = "utf-16" if wide else "utf-8-sig"
        with io.TextIOWrapper(raw, encoding=encoding, newline="") as stream:
            yield from pieces_of(stream)


def _json_lines(path: Path, column: str) -> Iterator[str]:
    """Text of each line of a .jsonl file."""
    with _reading(path), _open(path) as raw:
        for number, line in enumerate(raw, start=1):
            if not line.strip():
                continue
            try:
                text = json.loads(line)[column]
                assert isinstance(text, str)
            except (ValueError, KeyError, TypeError, AssertionError):
                raise PlanError(
                    f"line {number} of {path} is not a JSON object with text in '{column}': "
                    f"{line[:60].decode(errors='replace')!r}. Name the column of "
                    "text by data.column."
                ) from None
            yield text


def _parquet(path: Path, column: str) -> Iterator[str]:
    """Text of each row of a .parquet file."""
    from pyarrow import ArrowException
    from pyarrow.parquet import ParquetFile

    try:
        with ParquetFile(path) as table:
            names = table.schema_arrow.names
            if column not in names:
                raise PlanError(
                    f"{path} has no column '{column}'; it has {', '.join(names)}. "
                    "Choose one by data.column."
                )
            for batch in table.iter_batches(columns=[column]):
                yield from texts_of(batch.column(0).to_pylist(), column, str(path))
    except (ArrowException, OSError) as error:
        raise PlanError(
            f"{path} is not a readable parquet file: {error}. Replace or exclude it."
        ) from error


def texts_of(values: Iterable[Any], column: str, place: str) -> Iterator[str]:
    """Values that are texts; missing values are left out.

    Raises:
        PlanError: A value of another type.
    """
    for value in values:
        if isinstance(value, str):
            yield value
        elif value is not None:
            raise PlanError(
                f"column '{column}' of {place} holds {type(value).__name__}, not text; "
                "choose another by data.column."
            )


def _open(path: Path) -> IO[bytes] | gzip.GzipFile:
    """Open a file for its decompressed bytes."""
    if path.suffix.lower() == ".gz":
        return gzip.open(path)
    return path.open("rb")


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    """Turn errors of reading a file into a PlanError that names it."""
    try:
        yield
    except UnicodeError as error:
        raise PlanError(
            f"{path} is not UTF-8 text ({str(error)[:70]}); convert it (iconv -t utf-8), or "
            f"exclude it: data.pattern='... !**/{path.name}'."
        ) from error
    except (EOFError, zlib.error, OSError) as error:
        raise PlanError(f"{path} cannot be read: {error}. Repair or exclude it.") from error


_unreachable: dict[str, str] = {}
"""Errors of data sets of the hub that could not be reached: the library tries for 23 s before it
gives up, and a plan would try again for every cell."""


def open_hub(config: DataConfig, seq_len: int) -> TokenizedCorpus:
    """Open a data set of the Hugging Face hub or of a folder.

    Raises:
        PlanError: It cannot be loaded, or lacks the split or the column of text.
    """
    path = config.path or DEFAULT
    local = Path(path).expanduser().exists()
    return open_corpus(
        HubDocuments(
            name=f"hf:{Path(path).expanduser().resolve().name if local else path}",
            path=str(Path(path).expanduser().absolute()) if local else path,
            local=local,
            subset=config.subset,
            split=config.split,
            column=config.column,
            streaming=config.streaming,
            limit=stream_limit(config),
        ),
        config,
        seq_len,
    )


def stream_limit(config: DataConfig) -> int | None:
    """Tokens to read from a stream: a power of two above the cap and twice the held-out sample."""
    if not config.streaming or config.unique_tokens is None:
        return None
    needed = int(config.unique_tokens) + 2 * config.heldout_tokens
    return max(STREAMED_TOKENS, int(1 << (needed - 1).bit_length()))


@dataclass(frozen=True, slots=True, kw_only=True)
class HubDocuments:
    """Documents of a data set, in its order."""

    name: str
    path: str
    local: bool
    subset: str | None
    split: str
    column: str
    streaming: bool
    limit: int | None

    @property
    def identity(self) -> Any:
        chosen = [self.subset, self.split, self.column, self.limit]
        if not self.local:
            return ["hf", self.path, *chosen]
        root = Path(self.path)
        files = sorted(f for f in root.rglob("*") if f.is_file()) if root.is_dir() else [root]
        return ["hf", stamp(files), *chosen]

    def __iter__(self) -> Iterator[Document]:
        data = self._load()
        names = data.column_names
        if names is not None and self.column not in names:
            raise PlanError(
                f"data set '{self.path}' has no column '{self.column}'; it has "
                f"{', '.join(names)}. Choose one by data.column."
            )
        with self._name_errors("read"):
            for batch in data.iter(batch_size=ROWS):
                for text in texts_of(batch[self.column], self.column, f"'{self.path}'"):
                    yield document_of(text)

    def sample(self) -> Iterator[str]:
        """Text of the documents in order."""
        for document in self:
            yield from document.pieces

    def _load(self) -> Any:
        """Load the data set from the hub or from a folder of either kind."""
        try:
            import datasets
        except ImportError as error:
            raise PlanError(
                "data=hf needs the package 'datasets': pip install 'isoflop[hf]'."
            ) from error
        if self.path in _unreachable:
            raise PlanError(_unreachable[self.path])
        root = Path(self.path)
        with self._name_errors("loaded"):
            if self.local and (root / "dataset_dict.json").exists():
                splits = datasets.load_from_disk(self.path)
                if self.split not in splits:
                    raise PlanError(
                        f"data set '{self.path}' has no split '{self.split}'; it has "
                        f"{', '.join(splits)}. Choose one by data.split."
                    )
                return splits[self.split]
            if self.local and (root / "state.json").exists():
                return datasets.load_from_disk(self.path)
            return datasets.load_dataset(
                self.path, self.subset, split=self.split, streaming=self.streaming
            )

    @contextmanager
    def _name_errors(self, verb: str) -> Iterator[None]:
        """Turn any error into a PlanError: the library raises dozens of unrelated types."""
        try:
            yield
        except (PlanError, GeneratorExit):
            raise
        except Exception as error:
            reason = (str(error).strip() or type(error).__name__).splitlines()[0][:200]
            message = (
                f"data set '{self.path}' could not be {verb}: {reason.rstrip('.')}. Check "
                "data.path, data.subset and data.split. Without a network, load it on a machine "
                "that has one, save_to_disk it and set data.path=FOLDER; or use data=text."
            )
            if isinstance(error, ConnectionError) and not self.local:
                _unreachable[self.path] = message
            raise PlanError(message) from error
