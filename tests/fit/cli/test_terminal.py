"""What a terminal adds: help that reads at 80 columns, colour, progress, Ctrl-C."""

import io
import os
import re
import shlex
import sys
import time

import click
import pytest
from click.testing import CliRunner

from fit.cli import terminal
from fit.cli.main import main
from fit.cli.plugins import PluginCommand
from fit.cli.terminal import EXAMPLES, GROUPS, SECTIONS, coloured, has_colour, progress
from fit.data.progress import report_stage

OURS = {n: c for n, c in main.commands.items() if not isinstance(c, PluginCommand)}


class Terminal(io.StringIO):
    """A stream that says it is a terminal."""

    def isatty(self):
        return True


def help_of(*names):
    result = CliRunner().invoke(main, [*names, "--help"])
    assert result.exit_code == 0, result.output
    return result.stdout


def test_every_command_stands_once_in_the_list_with_its_whole_summary():
    assert sorted(" ".join(GROUPS.values()).split()) == sorted(main.commands)
    text = help_of()
    assert max(map(len, text.splitlines())) <= 80 and "..." not in text.partition("\n")[2]
    words = " ".join(text.split())
    for name, command in main.commands.items():
        about = command.short_help or (command.help or "").split("\n\n")[0]
        assert f"{name} {' '.join(about.split())}" in words
    assert all(f"\n{heading}:" in text for heading in GROUPS)


def test_a_former_name_of_a_command_names_the_present_one():
    result = CliRunner().invoke(main, ["imports", "wandb", "me/demo"])
    assert result.exit_code == 2
    assert result.stderr.startswith("isoflop: 'imports' is called 'fetch' now. See: ")
    assert set(terminal.RENAMED.values()) <= main.commands.keys()


@pytest.mark.parametrize("name", OURS)
def test_every_option_is_one_line_of_eighty_columns(name):
    text = help_of(name)
    lines = text.splitlines()
    assert max(map(len, lines)) <= 80
    context = click.Context(OURS[name], info_name=name)
    for parameter in OURS[name].get_params(context):
        record = parameter.get_help_record(context)
        if isinstance(parameter, click.Option) and record:
            option, about = record
            shown = [" ".join(line.split()) for line in lines if line.startswith(f"  {option}  ")]
            assert shown == [" ".join(f"{option} {about}".split())], option


def test_sections_name_each_option_of_their_command_once():
    for name, sections in SECTIONS.items():
        options = [p.name for p in OURS[name].params if isinstance(p, click.Option)]
        assert sorted(" ".join(sections.values()).split()) == sorted(options), name
        assert all(f"\n{heading}:\n" in help_of(name) for heading in sections)
    many = {n for n, c in OURS.items() if len(c.params) > 10}
    assert many <= set(SECTIONS)


def test_every_command_has_examples_that_it_accepts():
    assert set(EXAMPLES) == set(OURS)
    for name, lines in EXAMPLES.items():
        for line in lines:
            program, command, *args = shlex.split(line)
            assert (program, command) == ("isoflop", name)
            OURS[name].make_context(name, args)  # raises where it does not take them
            assert f"  {line}\n" in help_of(name)


def test_colour_is_for_terminals_alone_and_changes_no_text(monkeypatch):
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm")
    assert has_colour(Terminal()) and not has_colour(io.StringIO())
    monkeypatch.setenv("NO_COLOR", "1")
    assert not has_colour(Terminal())
    monkeypatch.delenv("NO_COLOR")
    monkeypatch.setenv("TERM", "dumb")
    assert not has_colour(Terminal())
    plain = CliRunner().invoke(main, ["query", "1e21", "--law", "besiroglu2024"]).stdout
    painted = coloured(plain)
    assert "\x1b[" not in plain
    assert click.style("CAREFUL", fg="yellow", bold=True) in painted
    assert click.style("warning", fg="yellow", bold=True) in painted
    assert click.unstyle(painted) == plain
    assert coloured("a warning in a sentence, info  too") == "a warning in a sentence, info  too"


def test_progress_appears_after_a_while_names_the_stage_and_is_wiped(monkeypatch):
    monkeypatch.setattr(terminal, "PATIENCE", 0.02)
    monkeypatch.setattr(terminal, "REDRAW", 0.01)
    stream = Terminal()
    monkeypatch.setattr(sys, "stderr", stream)
    with progress("fitting"):
        waited = time.monotonic() + 5
        while "fitting" not in stream.getvalue() and time.monotonic() < waited:
            time.sleep(0.01)
        report_stage("bootstrap: 500 of 4000 resamples")
        while "bootstrap: 500 of 4000" not in stream.getvalue() and time.monotonic() < waited:
            time.sleep(0.01)
    shown = stream.getvalue()
    assert "fitting (0 s)" in shown and "bootstrap: 500 of 4000 resamples (0 s)" in shown
    assert shown.endswith("\x1b[2K\r")
    report_stage("nobody listens")
    assert "nobody" not in stream.getvalue()


def test_without_a_terminal_or_in_a_short_command_nothing_is_drawn(monkeypatch):
    for stream in (io.StringIO(), Terminal()):
        monkeypatch.setattr(sys, "stderr", stream)
        with progress("fitting"):
            pass
        assert "fitting" not in stream.getvalue()


@pytest.mark.parametrize("name", main.commands)
def test_ctrl_c_ends_every_command_with_130_and_one_line(name, monkeypatch):
    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(main.commands[name], "invoke", interrupted)
    args = shlex.split(EXAMPLES[name][0])[2:] if name in EXAMPLES else []
    result = CliRunner().invoke(main, [name, *args])
    assert result.exit_code == 130
    assert result.stderr == "isoflop: stopped by Ctrl-C.\n" and result.stdout == ""


def test_completion_knows_commands_and_options():
    environment = {
        "_ISOFLOP_COMPLETE": "bash_complete",
        "COMP_WORDS": "isoflop ex",
        "COMP_CWORD": "1",
    }
    result = CliRunner().invoke(main, prog_name="isoflop", env=environment)
    assert re.findall(r"plain,(\w+)", result.stdout) == ["explain"]
    environment |= {"COMP_WORDS": "isoflop query --mem", "COMP_CWORD": "2"}
    result = CliRunner().invoke(main, prog_name="isoflop", env=environment)
    assert "plain,--memory" in result.stdout
    assert "_ISOFLOP_COMPLETE" not in os.environ
