"""`isoflop doctor`: whether this installation can do what it offers, and what to do where not.

Nothing heavy is imported here: versions come from the installed metadata, and what PyTorch sees
from a process of its own.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

from fit.quantities import gigabytes
from fit.report.text import wrapped_row

DOCTOR_SCHEMA = "isoflop.doctor/1"
STATES = ("ok", "absent", "broken")
"""`absent` is a part that is not installed; `broken` is to be repaired."""
NEEDED = {"numpy": "1.26", "scipy": "1.11", "pandas": "2.1", "click": "8.1"}
"""Least versions of what is always needed."""
EXTRAS: Mapping[str, tuple[str, str]] = MappingProxyType(
    {
        "report": ("reports as PDF and HTML", "matplotlib typst"),
        "serve": ("the service and its page", "fastapi uvicorn matplotlib typst"),
        "train": ("sweeps on the embedded language", "torch lightning hydra-core omegaconf wandb"),
        "sweep": ("sweeps on text", "torch lightning hydra-core omegaconf tokenizers pyarrow"),
        "hf": ("data sets of Hugging Face", "datasets"),
        "tiktoken": ("tokenizers of OpenAI", "tiktoken"),
        "slurm": ("sweeps on Slurm", "hydra-submitit-launcher"),
        "ray": ("sweeps on Ray", "hydra-ray-launcher"),
    }
)
"""Extra -> what it is for, and the distributions that it needs."""
TORCH_SECONDS = 60
"""Longest that PyTorch may take to say what it sees."""
ASK_TORCH = """
import json, torch
cuda = torch.cuda.is_available()
count = torch.cuda.device_count() if cuda else 0
gpus = [torch.cuda.get_device_properties(i) for i in range(count)]
mps = hasattr(torch.backends, "mps") and torch.backends.mps.is_available()
print(json.dumps({"cuda": [(p.name, p.total_memory) for p in gpus], "mps": bool(mps),
                  "built": torch.version.cuda or torch.version.hip}))
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """One thing that was looked at."""

    name: str
    state: str
    """One of `STATES`."""
    found: str
    todo: str = ""
    """What to do, where it is not ok."""


def checks() -> list[Check]:
    """Look at versions, extras, devices, the compiler and the folders."""
    found = [_python(), *_libraries(), *_extras()]
    if _version("torch") is not None:
        found += [*_devices(), _compiler()]
    folders = (Path("runs"), Path("reports"), _cache())
    return [*found, *(_writable(folder) for folder in folders)]


def _python() -> Check:
    """The interpreter and this product."""
    name = f"isoflop {_version('isoflop') or 'from source'}"
    text = f"{name}, Python {platform.python_version()} on {platform.system()}"
    return Check(name="isoflop", state="ok", found=text)


def _libraries() -> list[Check]:
    """What the light part needs."""
    return [_library(name, least) for name, least in NEEDED.items()]


def _library(name: str, least: str) -> Check:
    """One library that is always needed."""
    version = _version(name)
    if version is None or _numbers(version) < _numbers(least):
        todo = f"pip install '{name}>={least}'"
        found = f"{version or 'not installed'}; {least} or newer is needed"
        return Check(name=name, state="broken", found=found, todo=todo)
    return Check(name=name, state="ok", found=version)


def _extras() -> list[Check]:
    """What each extra needs; one that is there in part is broken only where it cannot be used."""
    rows = []
    for extra, (about, names) in EXTRAS.items():
        missing = [name for name in names.split() if _version(name) is None]
        state = "absent" if missing else "ok"
        found = f"{about}: {'missing ' + ', '.join(missing) if missing else 'complete'}"
        todo = f"pip install 'isoflop[{extra}]'" if missing else ""
        rows.append(Check(name=f"[{extra}]", state=state, found=found, todo=todo))
    return rows


def _devices() -> list[Check]:
    """What PyTorch can train on; broken where it cannot be imported."""
    version = f"torch {_version('torch')}"
    command = [sys.executable, "-c", ASK_TORCH]
    try:
        run = subprocess.run(command, capture_output=True, text=True, timeout=TORCH_SECONDS)
        seen = json.loads(run.stdout)
    except (subprocess.TimeoutExpired, OSError, ValueError) as error:
        printed = run.stderr.strip() if isinstance(error, ValueError) else str(error)
        todo = "Install PyTorch again: pip install --force-reinstall torch"
        found = f"{version} cannot be imported: {''.join(printed.splitlines()[-1:])}"
        return [Check(name="devices", state="broken", found=found, todo=todo)]
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    gpus = [f"{name} ({gigabytes(memory)})" for name, memory in seen["cuda"]]
    if seen["mps"]:
        gpus.append("Apple GPU (mps)")
    found = f"{version}: {cores} CPU cores; {', '.join(gpus) or 'no GPU'}"
    if not gpus and shutil.which("nvidia-smi") and seen["built"] is None:
        todo = "This PyTorch is built for CPUs alone: install the one for your CUDA version."
        return [Check(name="devices", state="broken", found=found, todo=todo)]
    return [Check(name="devices", state="ok", found=found)]


def _compiler() -> Check:
    """A C++ compiler, which torch.compile needs on a CPU."""
    names = (os.environ.get("CXX", ""), "g++", "clang++", "c++")
    path = next((p for name in names if name and (p := shutil.which(name))), None)
    if path is None:
        todo = "Install g++ (xcode-select --install on a Mac), or sweep with train.compile=off."
        found = "none: torch.compile cannot be used on a CPU"
        return Check(name="compiler", state="absent", found=found, todo=todo)
    return Check(name="compiler", state="ok", found=path)


def _cache() -> Path:
    """The folder of cached data, as `sweep.cache` finds it."""
    home = os.path.expanduser("~")
    base = os.environ.get("XDG_CACHE_HOME") or ("" if home == "~" else f"{home}/.cache")
    return Path(base or tempfile.gettempdir()) / "isoflop"


def _writable(folder: Path) -> Check:
    """Whether files can be made in a folder, or the folder where it is not there yet."""
    name, place = "cache" if folder.is_absolute() else f"{folder}{os.sep}", folder
    while not place.exists() and place != place.parent:
        place = place.parent
    try:
        with tempfile.TemporaryFile(dir=place):
            free = gigabytes(shutil.disk_usage(place).free)
    except OSError as error:
        todo = f"Make it writable, or work in another folder: {error.strerror or error}."
        return Check(name=name, state="broken", found=f"cannot be written ({place})", todo=todo)
    there = "" if place == folder else ", is made when needed"
    return Check(name=name, state="ok", found=f"writable{there}; {free} free")


def _version(name: str) -> str | None:
    """The installed version of a distribution; None where it is not there."""
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _numbers(version: str) -> tuple[int, ...]:
    """The leading numbers of a version, for a comparison."""
    return tuple(int(n) for n in re.findall(r"\d+", version)[:3])


def doctor_document(rows: list[Check]) -> dict[str, Any]:
    """The document `isoflop.doctor/1`."""
    ok = all(row.state != "broken" for row in rows)
    return {"schema": DOCTOR_SCHEMA, "ok": ok, "checks": [asdict(row) for row in rows]}


def doctor_text(rows: list[Check]) -> str:
    """The checks as lines of 80 columns, with what to do at the end."""
    lines = [line for r in rows for line in wrapped_row(r.name, f"{r.state:<7} {r.found}")]
    todo = [line for r in rows if r.todo for line in wrapped_row(r.name, r.todo)]
    broken = sum(row.state == "broken" for row in rows)
    end = f"{broken} broken" if broken else "nothing is broken"
    return "\n".join([*lines, "", *(["what to do", *todo, ""] if todo else []), end])
