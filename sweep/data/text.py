"""The user's text: a file or a folder of .txt, .md, .rst, .jsonl and .parquet, plain or as .gz.

A plain file is one document; a line of .jsonl and a row of .parquet are one each.

Hugging Face data sets: by their name on the hub, or a folder; a row is a document.

A folder may be one that `save_to_disk` wrote, or hold files that `load_dataset` reads. Tokenised
once into the cache, a data set of the hub needs the network no more.
"""

from __future__ import annotations

import codecs
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
from sweep.data.shards import existing

BLOCK_BYTES = 1 << 20
ARCHIVES = (".tar", ".tgz", ".zip", ".bz2", ".xz", ".zst", ".7z")
TABLES = (".jsonl", ".parquet")
DEFAULT = "roneneldan/TinyStories"
ROWS = 1000
STREAMED_TOKENS = 1 << 25
"""Least tokens read of a stream: caps below share one corpus, and so one held-out sample."""


def open_text(config: DataConfig, seq_len: int) -> TokenizedCorpus:
    """Open the user's text.

    Raises:
        PlanError: Nothing there, no file fits the pattern, or a file cannot be read as text.
    """
    root = existing(config)
    files = [root] if root.is_file() else find(root, config.pattern)
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
    """Documents of files, by path."""

    name: str
    files: tuple[Path, ...]
    hashes: tuple[str, ...]
    """Of what each file holds, decompressed."""
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
        """Files in an order that their names do not decide."""
        for content, file in sorted(zip(self.hashes, self.files, strict=True)):
            for document in _documents(file, int(content[:16], 16), self.column):
                yield from document.pieces


def find(root: Path, pattern: str) -> list[Path]:
    """Files below a folder that fit one of the globs; hidden ones are left out.

    Args:
        root: The folder.
        pattern: Globs, separated by commas, semicolons, bars or spaces; `!glob` leaves files out.

    Raises:
        PlanError: No file fits, or there is none to leave out.
    """
    globs = [g for g in re.split(r"[,;|\s]+", pattern) if g]
    present = sorted(_walk(root))
    fits = {g: {n for n in present if _regex(g.lstrip("!")).fullmatch(n)} for g in globs}
    for glob in globs:
        if glob[0] == "!" and not fits[glob]:
            raise PlanError(
                f"data.pattern leaves out '{glob[1:]}', which no file below {root} fits; correct "
                "it ('!**/' in front looks at any depth) or drop it."
            )
    chosen = set[str]().union(*(fits[g] for g in globs if g[0] != "!"))
    chosen -= set[str]().union(*(fits[g] for g in globs if g[0] == "!"))
    found = [root / name for name in present if name in chosen]
    if not found:
        kinds = Counter(os.path.splitext(name)[1] or "no suffix" for name in present)
        common = ", ".join(f"{n} of {kind}" for kind, n in kinds.most_common(4))
        raise PlanError(
            f"no file below {root} fits data.pattern='{pattern}'; there are {common or 'no files'}."
        )
    return found


def _walk(root: Path) -> Iterator[str]:
    """Relative paths of the files below a folder, hidden ones left out.

    Three times as fast as `Path.glob` on 3,000 files, and a plan asks once a cell of a grid.
    """
    for folder, folders, names in os.walk(root):
        folders[:] = [f for f in folders if f[0] != "."]
        inside = os.path.relpath(folder, root).replace(os.sep, "/")
        for name in (n for n in names if n[0] != "."):
            yield name if inside == "." else f"{inside}/{name}"


def _regex(glob: str) -> re.Pattern[str]:
    """A glob as an expression; capitals do not matter, `**` is any number of folders."""
    meaning = {"**/": "(?:.*/)?", "**": ".*", "*": "[^/]*", "?": "[^/]"}
    parts = re.split(r"(\*\*/|\*\*|\*|\?)", glob.removeprefix("./"))
    return re.compile("".join(meaning.get(p, re.escape(p)) for p in parts), re.IGNORECASE)


def hash_of(path: Path) -> str:
    """Hash of a file's content, decompressed."""
    digest = hashlib.blake2b(digest_size=8)
    with _reading(path), _open(path) as stream:
        while block := stream.read(BLOCK_BYTES):
            digest.update(block)
    return digest.hexdigest()


def table_suffix(path: Path) -> str | None:
    """`.jsonl` or `.parquet` where a file holds many documents, a `.gz` behind it or not."""
    names = [s.lower() for s in path.suffixes]
    name = names[-2] if names[-1:] == [".gz"] and len(names) > 1 else (names or [""])[-1]
    return name if name in TABLES else None


def _documents(path: Path, key: int, column: str) -> Iterator[Document]:
    """What one file holds."""
    kind = table_suffix(path)
    if kind is None:
        yield Document(key=key, pieces=_pieces(path))
        return
    texts = _json_lines(path, column) if kind == ".jsonl" else _parquet(path, column)
    for text in texts:
        yield document_of(text)


def _pieces(path: Path) -> Iterator[str]:
    """A plain file in pieces."""
    suffixes = [s.lower() for s in path.suffixes]
    if set(suffixes) & set(ARCHIVES):
        raise PlanError(
            f"{path} is an archive; unpack it, or leave it out: data.pattern='... !**/{path.name}'."
        )
    with _reading(path), _open(path) as raw:
        head = raw.read(4)
        raw.seek(0)
        wide = head.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
        encoding = "utf-16" if wide else "utf-8-sig"
        with io.TextIOWrapper(raw, encoding=encoding, newline="") as stream:
            yield from pieces_of(stream)


def _json_lines(path: Path, column: str) -> Iterator[str]:
    """The text of each line."""
    with _reading(path), _open(path) as raw:
        for number, line in enumerate(raw, start=1):
            if not line.strip():
                continue
            try:
                text = json.loads(line)[column]
                assert isinstance(text, str)
            except (ValueError, KeyError, TypeError, AssertionError):
                raise PlanError(
                    f"line {number} of {path} is not a JSON object with a text in '{column}': "
                    f"{line[:60].decode(errors='replace')!r}. Name it by data.column."
                ) from None
            yield text


def _parquet(path: Path, column: str) -> Iterator[str]:
    """The text of each row."""
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
        raise PlanError(f"{path} is not readable parquet: {error}.") from error


def texts_of(values: Iterable[Any], column: str, place: str) -> Iterator[str]:
    """The values that are texts; missing ones are left out.

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
    """The file's bytes, decompressed."""
    if path.suffix.lower() == ".gz":
        return gzip.open(path)
    return path.open("rb")


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    """Turn what can go wrong with a file into one line that names it."""
    try:
        yield
    except UnicodeError as error:
        raise PlanError(
            f"{path} is not UTF-8 text ({str(error)[:70]}); convert it (iconv -t utf-8), or leave "
            f"it out: data.pattern='... !**/{path.name}'."
        ) from error
    except (EOFError, zlib.error, OSError) as error:
        raise PlanError(f"{path} cannot be read: {error}.") from error


_unreachable: dict[str, str] = {}
"""Why a data set of the hub could not be reached: the library tries for 23 s before it gives up,
and a plan asks once a cell."""


def open_hub(config: DataConfig, seq_len: int) -> TokenizedCorpus:
    """Open a data set.

    Raises:
        PlanError: It cannot be loaded, or has no such split or column of text.
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
    """Tokens to read of a stream: a power of two above the cap and twice the held-out sample."""
    if not config.streaming or config.unique_tokens is None:
        return None
    needed = int(config.unique_tokens) + 2 * config.heldout_tokens
    return max(STREAMED_TOKENS, int(1 << (needed - 1).bit_length()))


@dataclass(frozen=True, slots=True, kw_only=True)
class HubDocuments:
    """Rows of a data set, in its order."""

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
        with self._named("read"):
            for batch in data.iter(batch_size=ROWS):
                for text in texts_of(batch[self.column], self.column, f"'{self.path}'"):
                    yield document_of(text)

    def sample(self) -> Iterator[str]:
        """The first documents."""
        for document in self:
            yield from document.pieces

    def _load(self) -> Any:
        """The data set, by whichever way it was kept."""
        try:
            import datasets
        except ImportError as error:
            raise PlanError(
                "data=hf needs the package 'datasets': pip install 'isoflop[hf]'."
            ) from error
        if self.path in _unreachable:
            raise PlanError(_unreachable[self.path])
        root = Path(self.path)
        with self._named("loaded"):
            if self.local and (root / "dataset_dict.json").exists():
                found = datasets.load_from_disk(self.path)
                if self.split not in found:
                    raise PlanError(
                        f"data set '{self.path}' has no split '{self.split}'; it has "
                        f"{', '.join(found)}. Choose one by data.split."
                    )
                return found[self.split]
            if self.local and (root / "state.json").exists():
                return datasets.load_from_disk(self.path)
            return datasets.load_dataset(
                self.path, self.subset, split=self.split, streaming=self.streaming
            )

    @contextmanager
    def _named(self, verb: str) -> Iterator[None]:
        """One line for whatever goes wrong: the library raises dozens of unrelated types."""
        try:
            yield
        except (PlanError, GeneratorExit):
            raise
        except Exception as error:
            reason = (str(error).strip() or type(error).__name__).splitlines()[0][:200]
            message = (
                f"data set '{self.path}' could not be {verb}: {reason.rstrip('.')}. Check "
                "data.path, data.subset and data.split. Without a network, load it where one is, "
                "save_to_disk it, and give that folder by data.path=FOLDER; or take data=text."
            )
            if isinstance(error, ConnectionError) and not self.local:
                _unreachable[self.path] = message
            raise PlanError(message) from error
