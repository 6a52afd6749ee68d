"""`make demo` installs what its commands need and no more; `make test` adds the rest."""

from __future__ import annotations

import importlib.metadata
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from fit.release import RELEASED, version

ROOT = Path(__file__).parents[1]
WITHOUT = {
    "tokenizers",
    "pyarrow",
    "datasets",
    "fastapi",
    "uvicorn",
    "playwright",
    "mypy",
    "pytest",
}


def installs(target: str) -> list[str]:
    """What `make TARGET` would install in a fresh clone, in order."""
    command = ["make", "-n", target, "VENV=no-such-folder/.venv"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    return re.findall(r"pip install .*'(\S+)'$", done.stdout, re.M)


def name_of(requirement: str) -> str:
    """The name of a requirement, as the index writes it."""
    (name,) = re.findall(r"^[\w.-]+", requirement)
    return re.sub(r"[-_.]+", "-", name).lower()


def requirements(name: str) -> list[str]:
    """Requirements of a distribution; those of isoflop as this checkout states them."""
    if name != "isoflop":
        return importlib.metadata.requires(name) or []
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"].items()
    return project["dependencies"] + [f"{r}; extra == '{e}'" for e, rows in extras for r in rows]


def closure(extras: set[str]) -> set[str]:
    """Distributions that isoflop needs with some extras, those that they need included."""
    todo, found = [("isoflop", frozenset(extras))], set()
    while todo:
        name, wanted = todo.pop()
        if (name, wanted) in found:
            continue
        found.add((name, wanted))
        try:
            lines = requirements(name)
        except importlib.metadata.PackageNotFoundError:
            continue  # for another platform or Python
        for line in lines:
            extra = re.search(r"extra == [\"'](\S+?)[\"']", line)
            if extra is None or extra[1] in wanted:
                inner = re.search(r"^[\w.-]+\s*\[([^]]*)\]", line)
                more = frozenset(inner[1].replace(" ", "").split(",")) if inner else frozenset()
                todo.append((name_of(line), more))
    return {name for name, _ in found}


def test_the_demo_installs_two_extras_and_the_tests_add_the_rest():
    assert installs("demo") == [".[train,report]"]
    assert installs("test") == installs("install") == [".[train,report]", ".[dev]"]


def test_what_the_demo_installs_leaves_out_what_it_does_not_use():
    needed = closure({"train", "report"})
    assert {"torch", "lightning", "hydra-core", "wandb", "matplotlib", "typst"} <= needed
    assert not needed & WITHOUT
    assert closure({"sweep"}) >= needed - closure({"report"}) | {"tokenizers", "pyarrow"}


def test_one_version_stands_in_the_package_the_citation_and_the_changelog():
    cited = re.findall(r"^version: (.*)$", (ROOT / "CITATION.cff").read_text(), re.M)
    released = re.findall(r"^## (\d\S*)", (ROOT / "CHANGELOG.md").read_text(), re.M)
    assert cited == [RELEASED]
    assert released[0] == RELEASED


def git(folder, *arguments):
    """Run git in a folder, as somebody."""
    who = ("-c", "user.name=a", "-c", "user.email=a@b")
    subprocess.run(["git", *who, *arguments], cwd=folder, check=True, capture_output=True)


def test_the_version_is_that_of_the_tag_or_one_after_it(tmp_path):
    git(tmp_path, "init", "-q")
    git(tmp_path, "commit", "-q", "--allow-empty", "-m", "a")
    assert version(tmp_path) == RELEASED, "a clone without tags"
    git(tmp_path, "tag", "v1.2.3")
    assert version(tmp_path) == "1.2.3"
    for message in "bc":
        git(tmp_path, "commit", "-q", "--allow-empty", "-m", message)
    assert version(tmp_path) == "1.2.4.dev2"
    git(tmp_path, "tag", "checkpoint")
    assert version(tmp_path) == "1.2.4.dev2", "a tag that is no version"


def test_without_git_the_version_is_that_of_the_sdist_or_of_the_release(tmp_path):
    assert version(tmp_path) == RELEASED
    (tmp_path / "PKG-INFO").write_text("Metadata-Version: 2.4\nName: isoflop\nVersion: 3.1.dev4\n")
    assert version(tmp_path) == "3.1.dev4"


def test_the_types_of_the_module_are_those_of_what_it_exports():
    import isoflop

    stub = (ROOT / "fit" / "stubs" / "isoflop-stubs" / "__init__.pyi").read_text()
    named = re.findall(r"^from (\S+) import (\w+) as (\w+)$", stub, re.M)
    assert {(ours, module) for module, _, ours in named} == set(isoflop._MODULES.items())
    assert all(theirs == ours for _, theirs, ours in named)


def test_the_service_reads_parquet_and_needs_no_torch():
    needed = closure({"serve"})
    assert {"pyarrow", "fastapi", "matplotlib"} <= needed
    assert "torch" not in needed


@pytest.mark.slow
def test_the_demos_commands_run_where_nothing_else_is_installed(tmp_path):
    """A finder in every process hides modules of distributions that `make demo` does not install.

    The commands are those of the Makefile, on models that train in seconds.
    """
    needed = closure({"train", "report"})
    by_module = importlib.metadata.packages_distributions()
    hidden = {
        module
        for module, owners in by_module.items()
        if not {name_of(o) for o in owners} & needed and not module.startswith("__editable__")
    }
    assert {"tokenizers", "pyarrow", "fastapi", "_pytest"} <= hidden
    (tmp_path / "sitecustomize.py").write_text(
        "import sys\n"
        "from importlib.machinery import PathFinder\n"
        f"HIDDEN = {sorted(hidden)!r}\n"
        "class InstalledByDemo(PathFinder):\n"
        "    @classmethod\n"
        "    def find_spec(cls, name, path=None, target=None):\n"
        "        if name.partition('.')[0] not in HIDDEN:\n"
        "            return PathFinder.find_spec(name, path, target)\n"
        "sys.meta_path[sys.meta_path.index(PathFinder)] = InstalledByDemo\n"
    )
    env = {**os.environ, "PYTHONPATH": f"{tmp_path}:{ROOT}", "OMP_NUM_THREADS": "1"}
    small = "train.tokens=[2e4,4e4,8e4,1.6e5] model.seq_len=32 data.heldout_tokens=16384"
    makefile = (ROOT / "Makefile").read_text()
    recipe = re.search(r"^demo: .*\n((?:\t.*\n)+)", makefile, re.M)
    assert recipe is not None
    for line in recipe[1].strip().split("\n"):
        command = line.strip().replace("$(BIN)/python", sys.executable)
        command = command.replace("$(BIN)/isoflop", f"{sys.executable} -m fit")
        words = command.split() + (small.split() if "sweep" in command else [])
        words += ["--force"] if "query" in words else []
        done = subprocess.run(words, cwd=tmp_path, env=env, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
        assert "not logged" not in done.stderr
    assert (tmp_path / "reports" / "demo" / "report.pdf").read_bytes().startswith(b"%PDF")
    assert list((tmp_path / "runs" / "demo" / "wandb").glob("offline-run-*"))
