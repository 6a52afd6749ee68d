"""The registry of data sources: what every run trains on and is measured with.

    stories   a generated language, endless, its entropy known exactly      sweep.data.stories
    text      the user's files, as bytes or as a bpe trained on them        sweep.data.text
    tokens    memory-mapped shards of tokens that another program wrote     sweep.data.shards
    hf        a data set of the Hugging Face hub, or one saved to disk      sweep.data.text
    mix       several of the last three, in fixed proportions               sweep.data.mixture

Use `stories` to try things out and where the distance to the entropy matters, `text` and `hf` for
your own text, and `tokens` where it is tokenised already. `text` and `hf` are tokenised once into a
cache. Every source keeps the held-out sample apart from training, orders its rows by the run's
seed, can be read from any position, and repeats in whole epochs.

To add a source, write a module whose class follows `sweep.data.rows.TokenSource`, or whose function
returns a `TokenizedCorpus`, and enter it in `SOURCES` with the settings that it reads.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

from fit.data.records import DataInfo
from fit.errors import PlanError
from sweep.config import DataConfig
from sweep.data.measured import check_measured
from sweep.data.mixture import MixtureSource
from sweep.data.rows import CorpusSource, TokenizedCorpus, TokenSource
from sweep.data.shards import open_shards
from sweep.data.stories import StoriesSource
from sweep.data.text import open_hub, open_text

SourceOpener = Callable[[DataConfig, int, int], TokenSource]
"""Opens a source from its configuration, the row length T [tokens] and the run's seed."""


def corpus_opener(open_corpus: Callable[[DataConfig, int], TokenizedCorpus]) -> SourceOpener:
    """The opener of a source whose tokens lie on disk."""
    return lambda config, seq_len, seed: CorpusSource(
        open_corpus(config, seq_len), config, seq_len, seed
    )


READ_BY_ALL = frozenset("name unique_tokens max_epochs heldout_tokens seed cache".split())
"""Settings of `data` that every source reads, or that like `cache` change no result."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceKind:
    """A data source: how it is opened, and which settings of `data` it reads."""

    open: SourceOpener
    reads: frozenset[str]
    """Fields of `DataConfig`; others are refused where they are set."""


def source_kind(open_rows: SourceOpener, reads: str) -> SourceKind:
    """A source that reads some settings, in words, and those that all read."""
    return SourceKind(open=open_rows, reads=READ_BY_ALL | set(reads.split()))


CORPORA: Mapping[str, SourceKind] = MappingProxyType(
    {
        "text": source_kind(
            corpus_opener(open_text),
            "path pattern column encoding splits tokenizer vocab also_heldout tasks",
        ),
        "tokens": source_kind(
            corpus_opener(open_shards),
            "path vocab dtype byte_order header_bytes bytes_per_token splits",
        ),
        "hf": source_kind(
            corpus_opener(open_hub),
            "path subset split column streaming tokenizer vocab also_heldout tasks",
        ),
    }
)
"""Sources of tokens on disk, which can be mixed."""
SOURCES: Mapping[str, SourceKind] = MappingProxyType(
    {
        "stories": source_kind(StoriesSource, "size tasks"),
        **CORPORA,
        "mix": source_kind(
            lambda config, seq_len, seed: MixtureSource(config, seq_len, seed, CORPORA),
            "parts tokenizer pattern column encoding splits also_heldout tasks",
        ),
    }
)
"""Every source by its `data.name`."""


def open_source(config: DataConfig, *, seq_len: int, seed: int) -> TokenSource:
    """Open a data source for training.

    Args:
        config: The source and its options.
        seq_len: Predicted tokens of a row, T.
        seed: The run's seed: sets the order of training, not the held-out sample.

    Raises:
        PlanError: The data are missing, unreadable, or shorter than the held-out sample and a row.
    """
    if config.name not in SOURCES:
        raise PlanError(f"data.name='{config.name}' is unknown; known are {', '.join(SOURCES)}.")
    kind = SOURCES[config.name]
    if {"tokenizer", "vocab"} <= kind.reads and config.tokenizer == "bpe" and config.vocab is None:
        raise PlanError("data.vocab=null; byte pairs need a size: data.vocab=4096, say.")
    besides = [n for n in ("also_heldout", "tasks") if n in kind.reads and getattr(config, n)]
    source = kind.open(config, seq_len, seed)
    if besides:
        check_measured(config, source)
    return source


def describe(config: DataConfig, seq_len: int) -> tuple[int, int | None, DataInfo]:
    """Vocabulary, distinct training tokens before any cap (None: endless), and facts of the data.

    Cheap where the data have been tokenised before.

    Raises:
        PlanError: As `open_source`.
    """
    source = open_source(config, seq_len=seq_len, seed=0)
    return source.vocab, source.available_tokens, source.info
