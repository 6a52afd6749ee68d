"""`isoflop sweep write RUN`: print text that a trained model writes; trains nothing.

The run must have kept its weights (`train.keep=weights`). `isoflop sweep export RUN FOLDER` writes
them in the format of Hugging Face; `isoflop sweep grade RUN` judges stories that the model writes.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from fit.cli.terminal import OneValueCommand
from fit.errors import PlanError
from sweep import command_line
from sweep.data.measured import encoder_of
from sweep.data.registry import open_source
from sweep.data.rows import TokenSource, moved_data

DEFAULT_TOKENS = 256


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
def commands() -> None:
    """Use the weights that runs kept."""


@commands.command("write", cls=OneValueCommand)
@click.argument("run")
@click.option("--prompt", default="", help="Text to go on from; without it a document begins.")
@click.option(
    "--tokens", "ids", metavar="5,7,...",
    help="Token ids to go on from, in place of a prompt; ids are printed.",
)  # fmt: skip
@click.option("--n", "count", default=1, show_default=True, help="Number of texts.")
@click.option("--temperature", default=1.0, show_default=True, help="Below 1: likelier tokens.")
@click.option("--greedy", is_flag=True, help="The likeliest token at every step.")
@click.option(
    "--max-tokens", default=DEFAULT_TOKENS, show_default=True,
    help="Most tokens after the prompt; a text also ends where the model's context is full.",
)  # fmt: skip
@click.option("--seed", default=0, show_default=True, help="Of the draws.")
@click.option("--json", "as_json", is_flag=True, help="A JSON object per text.")
def write_command(
    run: str,
    prompt: str,
    ids: str | None,
    count: int,
    temperature: float,
    greedy: bool,
    max_tokens: int,
    seed: int,
    as_json: bool,
) -> None:
    """Print text that the model of a run writes.

    RUN is the folder of a run that kept its weights (train.keep=weights), its name below runs/, or
    a folder of runs of which one kept them.
    """
    if greedy and count > 1:
        raise PlanError(f"--greedy writes one text, and --n {count} asks for several; leave one.")
    if prompt and ids is not None:
        raise PlanError("--prompt and --tokens are both what a text goes on from; leave one.")
    settings = {"temperature": temperature, "greedy": greedy, "max_tokens": max_tokens}
    start = prompt if ids is None else read_ids(ids)
    texts = write_texts(run, start, count=count, seed=seed, **settings)
    if as_json:
        for text in texts:
            name = "text" if isinstance(text, str) else "tokens"
            click.echo(json.dumps({"run": run, "prompt": start, name: text, "seed": seed}))
    else:
        lines = (t if isinstance(t, str) else ",".join(map(str, t)) for t in texts)
        click.echo("\n---\n".join(lines))


def read_ids(text: str) -> list[int]:
    """Token ids that are separated by commas or blanks.

    Raises:
        PlanError: There are none, or one is no whole number.
    """
    words = text.replace(",", " ").split()
    if not words or not all(word.isdecimal() and len(word) < 19 for word in words):
        raise PlanError(f"--tokens {text[:60]}; token ids are needed, such as --tokens 5,7.")
    return [int(word) for word in words]


def write_texts(
    run: str, prompt: str | Sequence[int], *, count: int, **settings: Any
) -> list[str] | list[list[int]]:
    """Texts of a run, each with its prompt.

    Args:
        run: As `sweep.writing.weights.find_run` takes it.
        prompt: In the words of the run's data; empty begins a document. Or token ids.
        count: Number of texts.
        settings: Of `sweep.writing.generate.generate`.

    Returns:
        Token ids where the prompt is of such or the data have no text, else texts.

    Raises:
        RecordError: There is no such run, or it kept no weights.
        PlanError: The prompt cannot be encoded, a setting is out of its range, or the data have
            changed.
    """
    from sweep.writing.generate import check_settings, generate

    most, draws = settings["max_tokens"], {"temperature": 1.0, "seed": 0} | settings
    check_settings(count, most, temperature=draws["temperature"], seed=draws["seed"])
    _, model, source = open_run(run)
    start = list(getattr(source, "start", ()))
    as_text = isinstance(prompt, str) and getattr(source, "decode", None) is not None
    if not isinstance(prompt, str):
        tokens = list(prompt)
    elif prompt:
        encode = encoder_of(source, "--prompt", "Go on from token ids: --tokens 5,7.")
        tokens = [*start, *encode(prompt)]
    else:
        tokens = start
    if not tokens:
        option = "--prompt" if as_text else "--tokens, such as 5,7"
        raise PlanError(
            f"data={source.info.name} names no token that begins a document; give {option}."
        )
    written = generate(model, [tokens] * count, stop=ending_of(source) or None, **settings)
    if not as_text:
        return [tokens + w for w in written]
    return [text_of(source, tokens[len(start) :] + w) for w in written]


def open_run(run: str) -> tuple[Any, Any, Any]:
    """A run that kept its weights, its model and the data that it was trained on.

    Raises:
        RecordError: There is no such run, or it kept no weights.
        PlanError: The data have changed.
    """
    import torch

    from sweep.writing.weights import load_run

    kept, model = load_run(run)
    source = open_source(kept.data, seq_len=kept.shape.seq_len, seed=kept.record.seed)
    if source.info.hash != kept.record.data.hash:
        raise moved_data(kept.data, source.info.hash, kept.record.data.hash)
    if torch.cuda.is_available():
        model.cuda()
    return kept, model, source


def ending_of(source: TokenSource) -> list[int]:
    """The tokens that end a document; none where it has no end."""
    return list(getattr(source, "ending", getattr(source, "start", ())))


def text_of(source: Any, tokens: Sequence[int]) -> str:
    """The text of tokens, without the token that ends a document."""
    end = list(source.start)
    bare = tokens[:-1] if end and list(tokens[-1:]) == end else tokens
    return str(source.decode(bare))


@commands.command("export", cls=OneValueCommand)
@click.argument("run")
@click.argument("folder", type=click.Path(path_type=Path))
def export_command(run: str, folder: Path) -> None:
    """Write the model of RUN to FOLDER in the format of Hugging Face."""
    from sweep.writing.export import export_model
    from sweep.writing.weights import load_run

    kept, model = load_run(run)
    click.echo(export_model(model, folder, kept.record))


@commands.command("grade", cls=OneValueCommand)
@click.argument("run")
@click.option("--stories", default=200, show_default=True, help="Number of stories.")
@click.option("--temperature", default=1.0, show_default=True, help="Below 1: likelier tokens.")
@click.option("--seed", default=0, show_default=True, help="Of the draws.")
@click.option("--json", "as_json", is_flag=True, help="The grades as JSON.")
def grade_command(run: str, stories: int, temperature: float, seed: int, as_json: bool) -> None:
    """Grade stories that the model of RUN writes: grammar, facts, consistency, reasoning."""
    from sweep.skills.grading import diversity, grade_model, grades_table

    kept, model, source = open_run(run)
    grades, written = grade_model(
        model, source, stories=stories, temperature=temperature, seed=seed
    )
    if as_json:
        found = {skill: dataclasses.asdict(value) for skill, value in grades.items()}
        different = dataclasses.asdict(diversity(source, written))
        shown = {"run": kept.record.run, "grades": found, "diversity": different}
        click.echo(json.dumps(shown))
    else:
        click.echo(grades_table(source, grades, written))


@command_line()
def main(arguments: Sequence[str] | None = None, *, prog: str = "python -m sweep.write") -> None:
    """Run the command.

    Args:
        arguments: Of the command, its name first; None for those of this process.
        prog: The command's name in help and messages.
    """
    commands(None if arguments is None else list(arguments), prog_name=prog)


if __name__ == "__main__":
    main()
