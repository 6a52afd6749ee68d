"""The registry of data sources: what every run trains on and is measured with.

    stories   a generated language, endless, its entropy known exactly      sweep.data.stories
    text      the user's files, as bytes or as a bpe trained on them        sweep.data.text
    tokens    memory-mapped shards of tokens that another program wrote     sweep.data.shards
    hf        a data set of the Hugging Face hub, or one saved to disk      sweep.data.text
    mix       several of the last three, in fixed proportions               sweep.data.mixture
    own       what a function of your own opens (data._target_)             docs/extending.md

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
from sweep.data.text import open_hub, open_text, unfetched
from sweep.data.tokenizers import is_existing, open_existing
from sweep.plugins import PlugIn, read_options

SeparatorOf = Callable[[DataConfig, int], int | None]
SourceOpener = Callable[[DataConfig, int, int], TokenSource]
"""Opens a source from its configuration, the row length T [tokens] and the run's seed."""


def corpus_opener(open_corpus: Callable[[DataConfig, int], TokenizedCorpus]) -> SourceOpener:
    """The opener of a source whose tokens lie on disk."""
    return lambda config, seq_len, seed: CorpusSource(
        open_corpus(config, seq_len), config, seq_len, seed
    )


def open_own(config: DataConfig, seq_len: int, seed: int) -> TokenSource:
    """Open the source of the user's own that `data._target_` names.

    Raises:
        PlanError: It is not named, cannot be imported, raises, or gives something else.
    """
    target = config._target_
    if target is None:
        raise PlanError(
            "data=own opens data._target_, which is null; set it to package.module:function."
        )
    options = read_options("data._target_", target, config.options)
    plug_in = PlugIn(setting="data._target_", target=target, sha="", options=options)
    try:
        source = plug_in.call(config, seq_len, seed)
        if isinstance(source, TokenizedCorpus):
            source = CorpusSource(source, config, seq_len, seed)
    except PlanError:
        raise
    except Exception as error:  # the user's code may raise anything
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        raise PlanError(f"data._target_={target} cannot be opened ({reason}).") from error
    missing = [n for n in SOURCE_MEMBERS if not hasattr(source, n)]
    if missing:
        raise PlanError(
            f"data._target_={target} gives a {type(source).__name__} without {', '.join(missing)}; "
            "a sweep.data.rows.TokenSource or a TokenizedCorpus is needed."
        )
    if config.unique_tokens is not None and source.info.unique_tokens is None:
        raise PlanError(
            f"data.unique_tokens={config.unique_tokens}, and data._target_={target} says that its "
            "tokens never repeat; leave it out, or let the source read it."
        )
    opened: TokenSource = source
    return opened


SOURCE_MEMBERS = (
    "info vocab seq_len facts available_tokens unigram_loss train heldout verify".split()
)
"""What a `TokenSource` has."""
READ_BY_ALL = frozenset("name unique_tokens max_epochs heldout_tokens seed cache".split())
"""Settings of `data` that every source reads, or that like `cache` change no result."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceKind:
    """A data source: how it is opened, and which settings of `data` it reads."""

    open: SourceOpener
    reads: frozenset[str]
    """Fields of `DataConfig`; others are refused where they are set."""
    separator: SeparatorOf
    """The token that ends a document, of a vocabulary's size; None where there is none."""


def source_kind(
    open_rows: SourceOpener,
    reads: str,
    separator: SeparatorOf = lambda config, vocab: None,
) -> SourceKind:
    """A source that reads some settings, in words, and those that all read."""
    return SourceKind(open=open_rows, reads=READ_BY_ALL | set(reads.split()), separator=separator)


def end_token(config: DataConfig, vocab: int) -> int | None:
    """The token that a tokenizer puts after each document: the last, if it is one of our own."""
    return open_existing(config.tokenizer).end if is_existing(config.tokenizer) else vocab - 1


def mixed_end(config: DataConfig, vocab: int) -> int | None:
    """The same of a mixture; None where a part is tokenised already, in a way that is not told."""
    told = all("tokenizer" in CORPORA[part["name"]].reads for part in config.parts)
    return end_token(config, vocab) if told else None


CORPORA: Mapping[str, SourceKind] = MappingProxyType(
    {
        "text": source_kind(
            corpus_opener(open_text),
            "path pattern column encoding splits tokenizer vocab also_heldout tasks",
            end_token,
        ),
        "tokens": source_kind(
            corpus_opener(open_shards),
            "path vocab dtype byte_order header_bytes bytes_per_token splits separator",
            lambda config, vocab: config.separator,
        ),
        "hf": source_kind(
            corpus_opener(open_hub),
            "path subset split column streaming tokenizer vocab also_heldout tasks",
            end_token,
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
            mixed_end,
        ),
        "own": source_kind(open_own, "_target_ options path also_heldout tasks"),
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


def describe_unfetched(config: DataConfig, seq_len: int) -> tuple[int, int | None, DataInfo]:
    """As `describe`, without fetching a data set of the hub: what its settings say then.

    Raises:
        PlanError: As `open_source`.
    """
    return (unfetched(config) if config.name == "hf" else None) or describe(config, seq_len)


def separator_of(config: DataConfig, vocab: int) -> int:
    """The token that stands between the documents of a source.

    Args:
        config: The source and its options.
        vocab: Size of its vocabulary.

    Raises:
        PlanError: The source has none, or it is not told, or is no token of the vocabulary.
    """
    kind = SOURCES[config.name]
    separator = kind.separator(config, vocab)
    if separator is None:
        advice = (
            "set data.separator=ID, 50256 in GPT-2's vocabulary"
            if "separator" in kind.reads
            else "leave it out, or take data=text, hf or tokens"
        )
        raise PlanError(
            f"model.document_mask=true needs the token that ends a document, and "
            f"data={config.name} names none; {advice}."
        )
    if not 0 <= separator < vocab:
        raise PlanError(
            f"data.separator={separator}; one of the tokens 0 to {vocab - 1} is needed."
        )
    return separator
