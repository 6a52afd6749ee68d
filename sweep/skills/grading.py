"""Grades of a trained model: stories that it writes, judged exactly.

The same number of true stories, from the held-out stream, is graded beside them: all grades of the
judge are 1 there, and novelty, how much of a text is not copied from the training text, is what the
language itself has. So it is with diversity: how different the stories are from one another.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fit.errors import PlanError
from sweep.data.grammars import OBJECTS
from sweep.data.rows import GOLDEN_GAMMA, finalised
from sweep.data.stories import StoriesSource
from sweep.model import Transformer
from sweep.skills.judge import Grade, grade, summarised

KEPT_STORIES = 10
"""Stories whose text is kept beside a record."""
TRAINING_ROWS = 4096
"""Rows of the training stream with which novelty is compared, from its first on."""
NGRAM = 8
"""Tokens of the sequences that are new or not."""
DISTINCT = 4
"""Tokens of the sequences that are counted as different or not."""

Hashes = NDArray[np.uint64]


def grade_model(
    model: Transformer,
    source: Any,
    *,
    stories: int = 200,
    temperature: float = 1.0,
    seed: int = 0,
) -> tuple[dict[str, Grade], list[list[int]]]:
    """Let a model write stories, and grade them.

    Args:
        model: The transformer.
        source: The data that it was trained on.
        stories: Number of stories.
        temperature: Of the draws.
        seed: Of the draws.

    Returns:
        Grades by skill, 0 to 1, with `novelty` besides; and the stories.

    Raises:
        PlanError: The source is no generated language, or a setting is out of its range.
    """
    if not isinstance(source, StoriesSource):
        readable = getattr(source, "encode", None) is not None
        raise PlanError(
            f"data={source.info.name} has no grammar to judge by; only data=stories has."
            + " Grade a model of other text by prompts: data.tasks." * readable
        )
    written = write_stories(model, source, stories, temperature=temperature, seed=seed)
    return grade_stories(source, written), written


def write_stories(
    model: Transformer, source: StoriesSource, count: int, *, temperature: float = 1.0, seed: int
) -> list[list[int]]:
    """Stories that a model writes, as tokens, each to its end or that of the model's context."""
    from sweep.writing.generate import check_settings, generate

    most = source.seq_len - len(source.start)
    check_settings(count, most, temperature=temperature, seed=seed)
    return generate(
        model,
        [list(source.start)] * count,
        max_tokens=most,
        temperature=temperature,
        seed=seed,
        stop=source.ending,
    )


def story_scores(
    model: Transformer, source: Any, *, stories: int, seed: int
) -> tuple[dict[str, dict[str, float | None]], list[str]]:
    """Grades of written stories as the scores of a record, `stories.SKILL`; and some of the texts.

    Novelty is left out: it is no skill that grows with scale, as noise is newest of all.
    """
    written = write_stories(model, source, stories, seed=seed)
    grades = grade(source.language, written)
    scores: dict[str, dict[str, float | None]] = {
        f"stories.{skill}": {
            "items": found.texts,
            "accuracy": found.value,
            "accuracy_se": found.error if found.texts > 1 else None,
        }
        for skill, found in grades.items()
    }
    return scores, [str(source.decode(story)) for story in written[:KEPT_STORIES]]


def grade_stories(source: StoriesSource, stories: Sequence[Sequence[int]]) -> dict[str, Grade]:
    """Grades of stories by skill, and their novelty against the training stream."""
    training = np.asarray(source.train(0, TRAINING_ROWS), dtype=np.int64)
    novelty = summarised([{"novelty": share} for share in new_shares(stories, training)])
    return grade(source.language, stories) | novelty


def true_stories(source: StoriesSource, count: int) -> list[list[int]]:
    """Stories of the held-out stream, each cut off where a model's would be."""
    ending, found = source.ending, list[list[int]]()
    for row in source.heldout().rows[:count, 1 : source.seq_len].tolist():
        ends = (i + len(ending) for i in range(len(row)) if row[i : i + len(ending)] == ending)
        found.append(row[: next(ends, len(row))])
    return found


def grades_table(source: StoriesSource, grades: dict[str, Grade], written: list[list[int]]) -> str:
    """The grades as a table for the terminal, true stories beside them."""
    true = true_stories(source, len(written))
    beside = grade_stories(source, true)
    lines = [f"{'skill':12} {'grade':>14} {'stories':>8} {'true stories':>13}"]
    for skill, found in sorted(grades.items()):
        other = beside.get(skill)
        lines.append(
            f"{skill:12} {found.value:6.3f} ± {found.error:.3f} {found.texts:8} "
            + (f"{other.value:13.3f}" if other else f"{'-':>13}")
        )
    training = np.asarray(source.train(0, TRAINING_ROWS), dtype=np.int64)
    mine, theirs = (float(np.mean(longest_matches(t, training))) for t in (written, true))
    rows = f"the first {TRAINING_ROWS} training rows"
    lines.append(f"longest part in {rows}: {mine:.1f} tokens (true stories {theirs:.1f})")
    lines.append(_diversity_text(diversity(source, written), diversity(source, true)))
    return "\n".join(lines)


@dataclass(frozen=True, slots=True, kw_only=True)
class Diversity:
    """How different stories are from one another.

    The topic of a story is the first object that it names: in tales the one that the person has.
    """

    commonest: str
    """The topic of most stories; empty where no story names an object."""
    share: float
    """Stories that are about it, of those that name an object."""
    named: float
    """The largest share of all stories that name one object, as their topic or in passing."""
    entropy: float
    """Of the topics [bits]; 4 where all sixteen are as common."""
    distinct: float
    """Different sequences of `DISTINCT` tokens, of all of them (Li et al. 2016, arXiv:1510.03055);
    it falls with the number of stories."""


def diversity(source: StoriesSource, stories: Sequence[Sequence[int]]) -> Diversity:
    """The diversity of some stories.

    Args:
        source: The data whose language they are in.
        stories: Token ids, one story each.
    """
    vocab = source.language.vocab
    objects = {token for token, word in enumerate(vocab) if word in OBJECTS}
    named = Counter(token for story in stories for token in objects.intersection(story))
    firsts = (next((t for t in story if t in objects), None) for story in stories)
    topics = Counter(t for t in firsts if t is not None).most_common()
    shares = np.array([count for _, count in topics]) / max(sum(count for _, count in topics), 1)
    tokens = (np.asarray(story, dtype=np.int64) for story in stories)
    hashes = np.concatenate([ngram_hashes(t, DISTINCT) for t in tokens])
    return Diversity(
        commonest=vocab[topics[0][0]] if topics else "",
        share=float(shares[0]) if topics else 0.0,
        named=max(named.values(), default=0) / len(stories),
        entropy=float((shares * np.log2(1 / shares)).sum()),
        distinct=len(np.unique(hashes)) / max(len(hashes), 1),
    )


def _diversity_text(mine: Diversity, true: Diversity) -> str:
    """Lines of the diversity of written stories, and of as many true ones in brackets."""
    distinct = (
        f"different sequences of {DISTINCT} words: {mine.distinct:.3f} of all "
        f"(true stories {true.distinct:.3f})"
    )
    if not mine.commonest:
        return distinct
    return (
        f"commonest topic: {mine.commonest}, {mine.share:.0%} of stories (true stories "
        f"{true.commonest}, {true.share:.0%})\n"
        f"commonest object named at all: in {mine.named:.0%} of stories (true stories "
        f"{true.named:.0%})\n"
        f"entropy of topics: {mine.entropy:.2f} bits (true stories {true.entropy:.2f})\n{distinct}"
    )


def ngram_hashes(tokens: NDArray[np.int64], size: int) -> Hashes:
    """A 64-bit hash of every `size` adjacent tokens along the last axis, (..., t - size + 1)."""
    found = np.zeros(tokens.shape, np.uint64)
    for length in range(1, size + 1):
        found = _longer(found, tokens, length)
    return found


def new_shares(texts: Sequence[Sequence[int]], training: NDArray[np.int64]) -> list[float]:
    """Share of each text's sequences of `NGRAM` tokens that training rows do not hold.

    Args:
        texts: Token ids.
        training: Rows of training text, (rows, positions).

    Returns:
        A share per text of at least `NGRAM` tokens, 0 to 1.
    """
    known = np.unique(ngram_hashes(training, NGRAM))
    hashes = (ngram_hashes(np.asarray(text, dtype=np.int64), NGRAM) for text in texts)
    return [float(1 - _held(own, known).mean()) for own in hashes if len(own)]


def longest_matches(texts: Sequence[Sequence[int]], training: NDArray[np.int64]) -> list[int]:
    """Length of the longest part of each text that a training row holds [tokens]."""
    longest = [0] * len(texts)
    tokens = {n: np.asarray(text, dtype=np.int64) for n, text in enumerate(texts)}
    hashes = {n: np.zeros(len(text), np.uint64) for n, text in tokens.items()}
    rows = np.zeros(training.shape, np.uint64)
    for size in range(1, training.shape[-1] + 1):
        rows = _longer(rows, training, size)
        known = np.unique(rows)
        grown = {n: _longer(own, tokens[n], size) for n, own in hashes.items()}
        hashes = {n: own for n, own in grown.items() if _held(own, known).any()}
        for n in hashes:
            longest[n] = size
        if not hashes:
            break
    return longest


def _longer(hashes: Hashes, tokens: NDArray[np.int64], size: int) -> Hashes:
    """Hashes of sequences of `size` tokens from those of one token less."""
    count = max(tokens.shape[-1] - size + 1, 0)
    last = tokens[..., size - 1 :].astype(np.uint64) + np.uint64(1)
    with np.errstate(over="ignore"):
        return finalised(hashes[..., :count] * GOLDEN_GAMMA + last)


def _held(hashes: Hashes, known: Hashes) -> NDArray[np.bool_]:
    """Which hashes are among sorted ones."""
    place = np.minimum(np.searchsorted(known, hashes), len(known) - 1)
    return np.asarray(known[place] == hashes)
