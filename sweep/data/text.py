"""The data sources `text` and `hf`: documents of files and of Hugging Face data sets.

`text` reads a file or a folder: plain text, and .jsonl, .ndjson, .json, .csv, .tsv and .parquet,
also compressed (`sweep.data.containers`). A plain file is one document, a row of the others is one
each. Files that are named validation or test data, or whose folder is, are not trained on: the
held-out sample is drawn from them (`data.splits`).

`hf` reads a data set by its name on the hub, or from a folder that `save_to_disk` wrote or that
holds files `load_dataset` reads. A row is a document.

Both are tokenised once into the cache (`sweep.data.corpus`); afterwards a data set of the hub can
be used without a network.
"""

from __future__ import annotations

import functools
import os
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fit.data.records import DataInfo
from fit.errors import PlanError
from sweep.cache import META, cache_folder, compute_once, digest, stamp
from sweep.config import DataConfig
from sweep.data.containers import (
    DocumentReader,
    TextFile,
    container_of,
    examine_files,
)
from sweep.data.corpus import Document, corpus_folder, document_of, open_corpus
from sweep.data.rows import TokenizedCorpus
from sweep.data.shards import existing_path
from sweep.data.splits import split_files
from sweep.data.tokenizers import Bytes

DEFAULT = "roneneldan/TinyStories"
ROWS = 1000
STREAMED_TOKENS = 1 << 25
"""Least tokens read from a stream: smaller caps share one corpus, and so one held-out sample."""


def open_text(config: DataConfig, seq_len: int) -> TokenizedCorpus:
    """Open the user's text.

    Raises:
        PlanError: The path does not exist, no file matches the pattern, files cannot be read, or
            all are validation or test data by their names.
    """
    root = existing_path(config)
    listing, found = examined_files(root, config)
    by_name = config.splits == "names" and root.is_dir()
    names = [file.path.relative_to(root).as_posix() if by_name else "" for file in found]
    train, heldout, unused = (
        tuple(found[i] for i in indices) for indices in split_files(names, root)
    )
    return open_corpus(
        TextFiles(
            name=f"text:{root.resolve().name}",
            files=train,
            heldout_files=heldout,
            reader=DocumentReader(column=config.column),
            encoding=config.encoding if config.encoding in {f.encoding for f in found} else None,
            facts=tuple(_facts(train, heldout, unused, listing, root)),
        ),
        config,
        seq_len,
    )


def examined_files(root: Path, config: DataConfig) -> tuple[FileList, list[TextFile]]:
    """The files of a folder that match the pattern, or a single file, each read once.

    Raises:
        PlanError: No file matches, or some cannot be read as text.
    """
    listing = FileList(files=[root]) if root.is_file() else find_files(root, config.pattern)
    files = listing.files
    encoding = [] if config.encoding is None else [config.encoding]
    rows = compute_once(
        cache_folder(config.cache),
        ["text files", stamp(files), *encoding],
        lambda: [[f.hash, f.encoding] for f in examine_files(files, config.encoding)],
    )
    return listing, [
        TextFile(path=path, hash=hash, encoding=codec)
        for path, (hash, codec) in zip(files, rows, strict=True)
    ]


def _facts(
    train: Sequence[TextFile],
    heldout: Sequence[TextFile],
    unused: Sequence[TextFile],
    listing: FileList,
    root: Path,
) -> Iterator[tuple[str, str]]:
    """What was found, for the plan."""
    kinds = Counter(container_of(file.path) or "plain text" for file in train)
    yield (
        "files",
        f"{len(train):,} to train on: "
        + ", ".join(f"{n} {kind}" for kind, n in kinds.most_common(4)),
    )
    if others := [f.encoding for f in train if f.encoding not in ("", "utf-8-sig")]:
        yield "encoding", f"{len(others)} of them {', '.join(sorted(set(others)))}"
    for files, words in ((heldout, "held out"), (unused, "neither trained on nor measured")):
        if files:
            names = ", ".join(str(f.path.relative_to(root)) for f in files[:2])
            more = f" and {len(files) - 2} more" if len(files) > 2 else ""
            yield "by name", f"{names}{more}: {words}"
    if listing.left_out:
        yield "left out", ", ".join(f"{n} {kind}" for kind, n in listing.left_out.most_common(5))


@dataclass(frozen=True, slots=True, kw_only=True)
class TextFiles:
    """Documents of files, ordered by path; those that are held out by name come first.

    A text that stands on both sides is then held out, and its copy is not trained on.
    """

    name: str
    files: tuple[TextFile, ...]
    heldout_files: tuple[TextFile, ...]
    reader: DocumentReader
    encoding: str | None
    """The one that was named, where a file has it: other ones are found by the content."""
    facts: tuple[tuple[str, str], ...] = ()
    limit: int | None = None

    @property
    def identity(self) -> Any:
        kinds = [container_of(file.path) or ".txt" for file in self.files]
        both = (*self.files, *self.heldout_files)
        tables = [self.reader.column] if any(container_of(f.path) for f in both) else []
        content: list[Any] = ["text", digest([[f.hash for f in self.files], kinds]), *tables]
        if self.encoding is not None:
            content.append({"encoding": self.encoding})
        if self.heldout_files:
            content.append({"heldout": [f.hash for f in self.heldout_files]})
        return content

    def __iter__(self) -> Iterator[Document]:
        return self._documents(self.files, self.reader)

    def heldout(self) -> Iterator[Document]:
        """The documents that are held out by name."""
        return self._documents(self.heldout_files, self.reader)

    def sample(self) -> Iterator[str]:
        """Text of the files to train on in the order of their hashes, whatever their names."""
        files = sorted(self.files, key=lambda f: (f.hash, f.path))
        for document in self._documents(files, DocumentReader(column=self.reader.column)):
            yield from document.pieces

    @property
    def without_text(self) -> int:
        """Rows whose text is missing."""
        return self.reader.without_text

    def _documents(self, files: Sequence[TextFile], reader: DocumentReader) -> Iterator[Document]:
        """Documents of some of the files."""
        for file in files:
            yield from reader.documents(file)


@dataclass(slots=True, kw_only=True)
class FileList:
    """The files of a folder that are read, and how many of which kind are not."""

    files: list[Path]
    left_out: Counter[str] = field(default_factory=Counter)


def find_files(root: Path, pattern: str) -> FileList:
    """Find the files below a folder that match one of the globs; hidden files are left out.

    Args:
        root: The folder.
        pattern: Globs, separated by commas, semicolons, bars or spaces; `!glob` leaves files out.

    Raises:
        PlanError: No file matches, or an exclusion matches none.
    """
    globs = [g for g in re.split(r"[,;|\s]+", pattern) if g]
    left_out: Counter[str] = Counter()
    names = sorted(_list_files(root, left_out))
    matches = {g: {n for n in names if _regex(g.lstrip("!")).fullmatch(n)} for g in globs}
    for glob in globs:
        if glob[0] == "!" and not matches[glob]:
            raise PlanError(
                f"data.pattern excludes '{glob[1:]}', which no file below {root} matches; correct "
                "it ('!**/' in front matches at any depth) or remove it."
            )
    chosen = set[str]().union(*(matches[g] for g in globs if g[0] != "!"))
    chosen -= set[str]().union(*(matches[g] for g in globs if g[0] == "!"))
    kinds = Counter(
        os.path.splitext(name)[1] or "no suffix" for name in names if name not in chosen
    )
    left_out.update({f"of {kind}": n for kind, n in kinds.items()})
    files = []
    for path in (root / name for name in names if name in chosen):
        if path.stat().st_size:
            files.append(path)
        else:
            left_out["empty"] += 1
    if not files:
        common = ", ".join(f"{n} {kind}" for kind, n in left_out.most_common(4))
        suffix = next((kind for kind, _ in kinds.most_common() if kind != "no suffix"), None)
        todo = f"Read those: 'data.pattern=**/*{suffix}'" if suffix else "Correct data.pattern"
        raise PlanError(
            f"no file below {root} matches data.pattern='{pattern}' and holds text; it holds "
            f"{common or 'no files'}. {todo}, or correct data.path."
        )
    return FileList(files=files, left_out=left_out)


def _list_files(root: Path, left_out: Counter[str]) -> Iterator[str]:
    """Relative paths of the regular files below a folder, without hidden ones.

    A folder that links lead to twice is walked once. Three times as fast as `Path.glob` on 3,000
    files.

    Args:
        root: The folder.
        left_out: Counts what is left out, by kind.
    """
    seen = {_place(root)}
    stack = [("", root)]
    while stack:
        before, folder = stack.pop()
        try:
            entries = list(os.scandir(folder))
        except OSError:
            left_out["unreadable folders"] += 1
            continue
        for entry in entries:
            name = f"{before}{entry.name}"
            if entry.name[0] == ".":
                left_out["hidden"] += 1
            elif entry.is_dir():
                place = _place(Path(entry.path))
                if place in seen:
                    left_out["links to folders that are read already"] += 1
                else:
                    seen.add(place)
                    stack.append((f"{name}/", Path(entry.path)))
            elif entry.is_file():
                yield name
            else:
                left_out["broken links" if entry.is_symlink() else "pipes or devices"] += 1


def _place(folder: Path) -> tuple[int, int]:
    """Device and number of a folder: the same by whatever path."""
    status = folder.stat()
    return status.st_dev, status.st_ino


@functools.cache
def _regex(glob: str) -> re.Pattern[str]:
    """A glob as a regular expression; case is ignored, `**` is any number of folders."""
    meaning = {"**/": "(?:.*/)?", "**": ".*", "*": "[^/]*", "?": "[^/]"}
    parts = re.split(r"(\*\*/|\*\*|\*|\?)", glob.removeprefix("./"))
    return re.compile("".join(meaning.get(p, re.escape(p)) for p in parts), re.IGNORECASE)


NOT_FETCHED = "not fetched"
"""In place of the hash of a data set of the hub that is not here."""
_unreachable: dict[str, str] = {}
"""Errors of data sets of the hub that could not be reached: the library tries for 23 s before it
gives up, and a plan would try again for every cell."""


def open_hub(config: DataConfig, seq_len: int) -> TokenizedCorpus:
    """Open a data set of the Hugging Face hub or of a folder.

    Raises:
        PlanError: It cannot be loaded, or lacks the split or the column of text.
    """
    return open_corpus(hub_documents(config), config, seq_len)


def unfetched(config: DataConfig) -> tuple[int, None, DataInfo] | None:
    """What is known of a data set of the hub before it is fetched; None if it is tokenised here.

    Returns:
        The vocabulary that is asked for, which a short text may not fill, no number of tokens, and
        a name without a hash.

    Raises:
        PlanError: The tokenizer is unknown.
    """
    documents = hub_documents(config)
    folder, existing = corpus_folder(documents, config)
    if documents.local or (folder / META).exists():
        return None
    own = Bytes.vocab if config.tokenizer == "bytes" else config.vocab
    vocab = existing.vocab if existing is not None else own
    assert vocab is not None  # corpus_folder refuses byte pairs without it
    return vocab, None, DataInfo(name=documents.name, hash=NOT_FETCHED)


def hub_documents(config: DataConfig) -> HubDocuments:
    """The documents of a data set of the hub or of a folder; nothing is read."""
    path = config.path or DEFAULT
    local = Path(path).expanduser().exists()
    return HubDocuments(
        name=f"hf:{Path(path).expanduser().resolve().name if local else path}",
        path=str(Path(path).expanduser().absolute()) if local else path,
        local=local,
        subset=config.subset,
        split=config.split,
        reader=DocumentReader(column=config.column),
        streaming=config.streaming,
        limit=stream_limit(config),
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
    reader: DocumentReader
    streaming: bool
    limit: int | None
    facts: tuple[tuple[str, str], ...] = ()

    @property
    def identity(self) -> Any:
        chosen = [self.subset, self.split, self.reader.column, self.limit]
        if not self.local:
            return ["hf", self.path, *chosen]
        root = Path(self.path)
        files = sorted(f for f in root.rglob("*") if f.is_file()) if root.is_dir() else [root]
        return ["hf", stamp(files), *chosen]

    def __iter__(self) -> Iterator[Document]:
        return self._documents(self.reader)

    def _documents(self, reader: DocumentReader) -> Iterator[Document]:
        """Every row with a text."""
        data = self._load()
        names = data.column_names
        column = reader.column
        top = column if names is None or column in names else column.split(".")[0]
        if names is not None and top not in names:
            raise PlanError(
                f"data set '{self.path}' has no column '{column}'; it has "
                f"{', '.join(names)}. Choose one by data.column."
            )
        with self._name_errors("read"):
            for batch in data.iter(batch_size=ROWS):
                for value in batch[top]:
                    text = reader.text({top: value}, f"'{self.path}'")
                    if text is not None:
                        yield document_of(text)

    @property
    def without_text(self) -> int:
        """Rows whose text is missing."""
        return self.reader.without_text

    def heldout(self) -> Iterator[Document]:
        """None: the split that is trained on is chosen by `data.split`."""
        return iter(())

    def sample(self) -> Iterator[str]:
        """Text of the documents in order."""
        for document in self._documents(DocumentReader(column=self.reader.column)):
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
