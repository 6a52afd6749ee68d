"""Commands of a page and what it shows of their output.

`python -m tests.doc_commands` (`make readme`) puts what the commands print now into the README and
into the pages of `WALKED`: run it when the reference sweep, or a text that is printed, has changed.
"""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
import tempfile
from pathlib import Path

from click.testing import CliRunner

from fit.cli.main import main

ROOT = Path(__file__).parents[1]
SHOWN = re.compile(r"^\$ isoflop ([^\n]+)\n(.*?)(?=^\$ |^```)", re.S | re.M)
"""A command of isoflop and its whole output, in a console block."""
WALKED = ("start.md", "budget.md")
"""Pages of `docs/` whose console blocks are whole, so that what they show can be written anew."""


def shown(text):
    """(command, lines shown) of every `$ ` in a text's console blocks, in order."""
    found, until = [], None
    for block in re.findall(r"^```console\n(.*?)^```", text, re.S | re.M):
        for line in block.splitlines():
            if until is not None:  # the lines of a here-document belong to its command
                found[-1] = (f"{found[-1][0]}\n{line}", [])
                until = None if line == until else until
            elif line.startswith("$ "):
                found.append((line[2:], []))
                here = re.search(r"<< '(\w+)'$", line)
                until = here[1] if here else None
            else:
                found[-1][1].append(line)
    return found


def walked(commands, folder):
    """The lines that each command prints, run in one shell as a reader would."""
    tools = folder / ".tools"
    tools.mkdir()
    for name, words in (("isoflop", "-m fit "), ("python", "")):
        tool = tools / name
        tool.write_text(f'#!/bin/sh\nexec "{sys.executable}" {words}"$@"\n')
        tool.chmod(0o755)
    script = "\n".join(f"{c}\necho; echo '@@@@' $?" for c in commands)
    done = subprocess.run(
        ["bash", "-c", script],
        cwd=folder,
        env={
            **os.environ,
            "PATH": f"{tools}:{os.environ['PATH']}",
            "PYTHONPATH": str(ROOT),
            "OMP_NUM_THREADS": "1",
        },
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=1200,
    )
    parts = re.split(r"^@@@@ (\d+)\n", done.stdout, flags=re.M)
    assert len(parts) == 2 * len(commands) + 1, done.stdout
    for command, text, code in zip(commands, parts[::2], parts[1::2], strict=False):
        assert code == "0", f"{command}\n{text}"
    return [text.rstrip("\n").splitlines() for text in parts[:-1:2]]


def agrees(lines, printed, masked=False):
    """Whether output is what a page shows; `...` stands for any lines, masked for any numbers."""
    form = words if masked else str.rstrip
    pattern = "".join(
        r"(?:.*\n)*?" if line == "..." else re.escape(form(line)) + r"\n" for line in lines
    )
    text = "".join(form(line) + "\n" for line in printed)
    return re.fullmatch(pattern, text) is not None


def words(line):
    """A line with its numbers and names of runs masked, and its blanks made one."""
    return " ".join(re.sub(r"\S*\d\S*", "#", line).split())


def printed(command):
    """What a command of isoflop prints, run in the checkout's root; it has to succeed."""
    before = Path.cwd()
    os.chdir(ROOT)
    try:
        found = CliRunner().invoke(main, shlex.split(command))
    finally:
        os.chdir(before)
    assert found.exit_code == 0, found.output
    return found.output.strip("\n")


def filled(text):
    """A page with what its commands print now in place of what it shows."""
    return SHOWN.sub(lambda m: f"$ isoflop {m[1]}\n{printed(m[1])}\n", text)


def rewalked(text, folder):
    """A page with what its console blocks print now, run in order in a folder."""
    steps = shown(text)
    found = iter(walked([command for command, _ in steps], folder))

    def block(match):
        lines = []
        for command, _ in shown(match[0]):
            lines += [f"$ {command}", *next(found)]
        return "```console\n" + "\n".join(lines) + "\n```"

    return re.sub(r"^```console\n.*?^```", block, text, flags=re.S | re.M)


if __name__ == "__main__":
    page = ROOT / "README.md"
    page.write_text(filled(page.read_text()))
    for name in WALKED:
        page = ROOT / "docs" / name
        with tempfile.TemporaryDirectory() as folder:
            page.write_text(rewalked(page.read_text(), Path(folder)))
