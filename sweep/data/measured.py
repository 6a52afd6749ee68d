"""What a trained model is measured on beside the held-out sample: other texts, and tasks.

`data.also_heldout` names files or folders of text, as those of `data=text`; each gives a loss of
its own, over a fixed sample as long as the held-out one or all of it. `data.tasks` is a file of
prompts with one right continuation each, a JSON object a line:

    {"prompt": "The capital of France is", "answer": " Paris"}
    {"prompt": "2 + 2 =", "answer": " 4", "choices": [" 3", " 4", " 5"], "skill": "sums"}

A task with a `skill` is graded with the others and with those of its skill besides.
Both are tokenised by the tokenizer of the source. A prompt begins a document. Prompt and answer are
tokenised one by one, so that a blank between words belongs to the answer.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from fit.errors import PlanError
from fit.files import COMPRESSIONS, content_hash
from fit.quantities import count_noun
from sweep.config import DataConfig
from sweep.data.containers import DocumentReader, TextFile
from sweep.data.rows import HELDOUT, Rows, TokenSource, heldout_count, permuted, stream_of
from sweep.data.text import examined_files

READ_SAMPLES = 16
"""Of a further text at most so many times the sample is tokenised, to draw the sample from."""
TASK_KEYS = {"prompt", "answer", "choices", "skill"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """A prompt and its possible continuations, in tokens."""

    prompt: tuple[int, ...]
    """With the tokens that begin a document; never empty."""
    options: tuple[tuple[int, ...], ...]
    """The continuations that are compared; without choices the right one alone."""
    answer: int
    """Index of the right one."""
    skill: str | None = None
    """What it is a test of, as its file says."""


def measured_identity(config: DataConfig) -> dict[str, Any]:
    """Names and content hashes of what is measured besides, as JSON; empty where nothing is."""
    identity: dict[str, Any] = {}
    if config.also_heldout:
        found = zip(set_names(config), config.also_heldout, strict=True)
        identity["also_heldout"] = [[n, [f.hash for f in _files(p, config)]] for n, p in found]
    if config.tasks is not None:
        identity["tasks"] = [task_name(config), content_hash(_task_bytes(config))]
    return identity


def set_names(config: DataConfig) -> list[str]:
    """Names of the further texts: those of their files or folders, without suffixes.

    Raises:
        PlanError: Two have the same.
    """
    names = [_stem(path) for path in config.also_heldout]
    double = next((n for n in names if names.count(n) > 1), None)
    if double is not None:
        raise PlanError(
            f"data.also_heldout has two texts called '{double}', by which their losses are named; "
            "rename one of the files."
        )
    return names


def task_name(config: DataConfig) -> str:
    """Name of the tasks: that of their file."""
    return _stem(str(config.tasks))


def _stem(path: str) -> str:
    """The name of a file without its suffixes, or of a folder."""
    name = Path(path).expanduser().resolve().name
    for suffix in COMPRESSIONS:
        name = name.removesuffix(suffix)
    return Path(name).stem


def _files(path: str, config: DataConfig) -> Sequence[TextFile]:
    """The examined files of a further text.

    Raises:
        PlanError: There are none, or they cannot be read as text.
    """
    root = Path(path).expanduser()
    if not root.exists():
        raise PlanError(
            f"data.also_heldout: {path} does not exist (looked for {root.absolute()}); give files "
            "or folders of text."
        )
    return examined_files(root, config)[1]


def check_measured(config: DataConfig, source: TokenSource) -> None:
    """Refuse, before anything is trained, what could not be measured.

    Raises:
        PlanError: A file is missing or cannot be read, or the source has no text.
    """
    if config.also_heldout:
        encoder_of(source, "data.also_heldout")
        measured_identity(config)
    if config.tasks is not None:
        read_tasks(config, source)
        graded = {"tokens", "stories", *(source.info.entropy_by_skill or {})}
        if task_name(config) in graded:
            raise PlanError(
                f"data.tasks={config.tasks}: '{task_name(config)}' is the name of another score "
                "(train.scores); the tasks are called after their file. Rename the file."
            )


def encoder_of(
    source: TokenSource,
    setting: str,
    advice: str = "Leave it out, or give a source of your own the method `encode`.",
) -> Callable[[str], list[int]]:
    """The tokenizer of a source.

    Args:
        source: The source.
        setting: What is to be tokenised, for messages.
        advice: What to do where there is none.

    Raises:
        PlanError: It has none.
    """
    encode: Callable[[str], list[int]] | None = getattr(source, "encode", None)
    if encode is None:
        raise PlanError(
            f"{setting} is text, and data={source.info.name} has no tokenizer for it. {advice}"
        )

    def checked(text: str) -> list[int]:
        try:
            tokens = list(encode(text))
            if tokens and not 0 <= min(tokens) <= max(tokens) < source.vocab:
                raise ValueError(f"tokens outside the vocabulary of 0 to {source.vocab - 1}")
        except PlanError:
            raise
        except Exception as error:  # a source of the user's own may raise anything
            reason = " ".join(f"{type(error).__name__}: {error}".split())
            raise PlanError(
                f"{setting}: data={source.info.name} cannot encode '{text[:40]}' ({reason})."
            ) from error
        return tokens

    return checked


def further_heldout(config: DataConfig, source: TokenSource) -> dict[str, Rows]:
    """A sample of the rows of each further text by its name, (rows, seq_len + 1).

    Raises:
        PlanError: A text is shorter than one row.
    """
    if not config.also_heldout:
        return {}
    encode, seq_len = encoder_of(source, "data.also_heldout"), source.seq_len
    start = list(getattr(source, "start", ()))
    count, out = heldout_count(config, seq_len), {}
    for name, path in zip(set_names(config), config.also_heldout, strict=True):
        tokens = list(start)
        reader = DocumentReader(column=config.column)
        for document in (d for file in _files(path, config) for d in reader.documents(file)):
            for piece in document.pieces:
                tokens += encode(piece)
            tokens += start
            if len(tokens) > READ_SAMPLES * count * seq_len:
                break
        stream = stream_of([np.array(tokens, dtype=np.int32)])
        available = stream.row_count(seq_len)
        if not available:
            raise PlanError(
                f"data.also_heldout: {path} has {len(tokens)} tokens, below one row of "
                f"model.seq_len={seq_len}; bring more text."
            )
        places = np.arange(min(count, available), dtype=np.int64)
        rows = np.sort(permuted(places, available, config.seed, HELDOUT))
        out[name] = stream.rows(rows, seq_len)
    return out


def read_tasks(config: DataConfig, source: TokenSource) -> tuple[Task, ...]:
    """The tasks of `data.tasks`; none where it is not set.

    Raises:
        PlanError: The file is missing, a line is no task, or one is longer than a row.
    """
    if config.tasks is None:
        return ()
    encode, tasks = encoder_of(source, "data.tasks"), []
    start = tuple(getattr(source, "start", ()))
    for number, line in enumerate(_task_bytes(config).splitlines(), start=1):
        if line.strip():
            where = f"line {number} of {config.tasks}"
            tasks.append(_task(line, where, encode, start, source.seq_len))
    if not tasks:
        raise PlanError(f"{config.tasks} holds no tasks; a JSON object a line is needed.")
    return tuple(tasks)


def _task_bytes(config: DataConfig) -> bytes:
    """The content of the file of tasks.

    Raises:
        PlanError: It cannot be read.
    """
    path = Path(str(config.tasks)).expanduser()
    try:
        return path.read_bytes()
    except OSError as error:
        raise PlanError(
            f"data.tasks={config.tasks} cannot be read: {error.strerror} (looked for "
            f"{path.absolute()}). Give a file of prompts and answers, a JSON object a line."
        ) from error


def _task(
    line: bytes,
    where: str,
    encode: Callable[[str], list[int]],
    start: tuple[int, ...],
    seq_len: int,
) -> Task:
    """Parse and tokenise one line."""
    try:
        row = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise PlanError(f"{where} is not JSON ({str(error)[:60]}). Correct it.") from error
    needed = (
        '{"prompt": "...", "answer": "...", "choices": [...], "skill": "..."}, choices and skill '
        "optional"
    )
    if not isinstance(row, dict) or not {"prompt", "answer"} <= row.keys() <= TASK_KEYS:
        raise PlanError(f"{where} is no task; {needed}, is needed. Correct it.")
    prompt, answer, choices = row["prompt"], row["answer"], row.get("choices", [row["answer"]])
    skill = row.get("skill")
    texts = [prompt, answer, *choices] if isinstance(choices, list) else [None]
    if not all(isinstance(text, str) for text in texts) or not isinstance(skill, str | None):
        raise PlanError(f"{where} holds what is no text; {needed}, is needed. Correct it.")
    if answer not in choices or len(set(choices)) < len(choices):
        raise PlanError(
            f"{where}: the answer must be one of the choices, and none may stand twice. Correct it."
        )
    if skill is not None and not skill.isidentifier():
        raise PlanError(
            f"{where} has the skill '{skill}', which names a column of scores; letters, digits and "
            "_ are needed. Correct it."
        )
    begin, options = (*start, *encode(prompt)), tuple(tuple(encode(c)) for c in choices)
    if not begin or not all(options):
        raise PlanError(f"{where} has an empty prompt or answer. Correct it.")
    longest = len(begin) + max(map(len, options)) - 1
    if longest > seq_len:
        raise PlanError(
            f"{where} has {count_noun(longest, 'token')}, and a model of model.seq_len={seq_len} "
            f"sees {seq_len}. Shorten it, or set a longer model.seq_len."
        )
    return Task(prompt=begin, options=options, answer=choices.index(answer), skill=skill)
