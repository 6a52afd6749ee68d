"""Hugging Face data sets: by their name on the hub, or a folder; a row is a document.

A folder may be one that `save_to_disk` wrote, or hold files that `load_dataset` reads. Tokenised
once into the cache, a data set of the hub needs the network no more.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fit.errors import PlanError
from sweep.cache import stamp
from sweep.config import DataConfig
from sweep.corpus import Document, document_of, open_corpus
from sweep.files import texts_of
from sweep.source import Packed

DEFAULT = "roneneldan/TinyStories"
ROWS = 1000
STREAMED_TOKENS = 1 << 25
"""Least tokens read of a stream: caps below share one corpus, and so one held-out sample."""

_unreachable: dict[str, str] = {}
"""Why a data set of the hub could not be reached: the library tries for 23 s before it gives up,
and a plan asks once a cell."""


def open_hub(config: DataConfig, seq_len: int) -> Packed:
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
