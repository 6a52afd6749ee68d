"""The judge accepts every true story and finds every planted fault."""

from collections import Counter

import numpy as np
import pytest

from sweep.data.language import Draw, Recall, Update, Word, rows
from sweep.data.stories import SIZES, language
from sweep.skills.judge import Grade, grade, judge

LENGTH = 128


def true_rows(size: str, count: int, seed: int = 0):
    return rows(language(size, seed), stream="judge", seed=1, start=0, count=count, seq_len=LENGTH)


def read(tongue, row):
    """The slot of every token of a row: position, slot, first of its segment, values so far."""
    state, at, values = tongue.start, 1, {}
    while at < len(row):
        segments = tongue.states[state]

        def shows(slot, at=at):
            if isinstance(slot, Word):
                return slot.token == row[at]
            if isinstance(slot, Draw):
                return row[at] in slot.tokens
            return slot.table[tuple(values[g] for g in slot.given)] == row[at]

        (segment,) = (s for s in segments if len(segments) == 1 or shows(s.slots[0]))
        for number, slot in enumerate(segment.slots):
            if isinstance(slot, Update):
                values[slot.var] = int(slot.table[tuple(values[g] for g in slot.given)])
                continue
            if at >= len(row):
                return
            yield at, slot, number == 0 and len(segments) > 1, values
            if isinstance(slot, Draw):
                values[slot.var] = int(np.flatnonzero(slot.tokens == row[at])[0])
            at += 1
        state = segment.then


def planted(tongue, row, random):
    """Rows with one fault each: its kind, the position, the skills that miss it, and the row."""
    for at, slot, first, values in list((a, s, f, dict(v)) for a, s, f, v in read(tongue, row)):
        if at >= len(row) - 3:  # a fault needs what follows
            continue

        def with_token(token, at=at):
            changed = row.copy()
            changed[at] = token
            return changed

        if isinstance(slot, Recall):
            others = np.setdiff1d(slot.table, row[at])
            if len(others):
                yield slot.skill, at, {slot.skill}, with_token(random.choice(others))
        elif isinstance(slot, Draw) and slot.given and (slot.counts == 0).any():
            context = tuple(values[g] for g in slot.given)
            impossible = slot.tokens[slot.counts[context] == 0]
            yield "impossible choice", at, {"consistency"}, with_token(random.choice(impossible))
        if not first:
            kind = {
                Word: "fixed word",
                Draw: "choice of another kind",
                Recall: "determined word of another kind",
            }[type(slot)]
            known = (
                {slot.token}
                if isinstance(slot, Word)
                else set(np.unique(slot.tokens if isinstance(slot, Draw) else slot.table).tolist())
            )
            strange = [t for t in range(1, len(tongue.vocab)) if t not in known]
            yield kind, at, {"grammar"}, with_token(random.choice(strange))
            if isinstance(slot, Word) and at + 1 < len(row) and row[at] != row[at + 1]:
                left = np.delete(row, at)
                yield "word left out", at, {"grammar"}, left
                added = np.insert(row, at, random.choice(strange))
                yield "word added", at, {"grammar"}, added


def found_faults(size: str, count: int, seed: int = 0) -> tuple[Counter, Counter]:
    """Planted faults by kind, and those that the judge found and gave to the right skill."""
    tongue, random = language(size, seed), np.random.default_rng(seed)
    every, found = Counter(), Counter()
    for row in true_rows(size, count, seed):
        for kind, at, skills, changed in planted(tongue, row, random):
            every[kind] += 1
            faults = judge(tongue, changed).faults
            found[kind] += any(
                f.skill in skills and abs(f.position - (at - 1)) <= 2 for f in faults
            )
    return every, found


@pytest.mark.parametrize("size", SIZES)
def test_every_true_story_is_accepted(size):
    grades = grade(language(size, 0), true_rows(size, 150))
    assert {g.value for g in grades.values()} == {1.0}
    assert {"grammar", "facts", "consistency"} <= set(grades)


@pytest.mark.slow
def test_a_hundred_thousand_true_stories_are_accepted():
    for size in SIZES:
        tongue = language(size, 1)
        for start in range(0, 17_000, 1000):
            found = rows(tongue, stream="judge", seed=2, start=start, count=1000, seq_len=LENGTH)
            assert not any(judge(tongue, row).faults for row in found)


@pytest.mark.parametrize("size", ["full", "skills", "tales", "tales-instruct"])
def test_every_planted_fault_is_found_and_given_to_its_kind(size):
    every, found = found_faults(size, 4)
    assert found == every
    assert {"consistency", "facts", "fixed word", "word added", "word left out"} <= set(every)


def test_a_wrong_word_of_the_right_kind_is_one_fault_and_no_other():
    tongue = language("full", 0)
    for row in true_rows("full", 6):
        for kind, at, _, changed in planted(tongue, row, np.random.default_rng(0)):
            if kind in ("facts", "reasoning", "consistency"):
                faults = judge(tongue, changed).faults
                assert [(f.position, f.skill) for f in faults] == [(at - 1, kind)]


def test_a_story_that_stops_anywhere_has_no_fault():
    tongue = language("tales", 0)
    (row,) = true_rows("tales", 1)
    assert not any(judge(tongue, row[:end]).faults for end in range(len(row)))


def test_any_tokens_are_judged_and_nonsense_is_given_little():
    tongue, random = language("tales", 0), np.random.default_rng(3)
    nonsense = random.integers(-5, len(tongue.vocab) + 50, (60, 90)).tolist()
    grades = grade(tongue, [*nonsense, [], [0]])
    assert grades["grammar"].value < 0.1
    assert grades["grammar"].texts == 60


def test_a_grade_is_the_mean_over_stories_with_its_standard_error():
    tongue = language("full", 0)
    good, other = true_rows("full", 2)
    bad = other.copy()
    bad[5] = len(tongue.vocab) + 7
    asked = judge(tongue, bad).asked["grammar"]
    value = grade(tongue, [good, bad])["grammar"]
    shares = np.array([1.0, 1 - 1 / asked])
    assert value == Grade(value=shares.mean(), error=shares.std(ddof=1) / 2**0.5, texts=2)
