"""Commands of a page and what it shows of their output."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]


def shown(text):
    """(command, lines shown) of every `$ ` in a text's console blocks, in order."""
    found = []
    for block in re.findall(r"^```console\n(.*?)^```", text, re.S | re.M):
        for line in block.splitlines():
            if line.startswith("$ "):
                found.append((line[2:], []))
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
