"""What the doctor looks at, and what it calls broken."""

import importlib.metadata
import json
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from click.testing import CliRunner

from fit.cli import doctor
from fit.cli.doctor import EXTRAS, Check, checks, doctor_text
from fit.cli.main import main

ROOT = Path(__file__).parents[3]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


@pytest.fixture
def seen(monkeypatch, tmp_path):
    """What torch reports, without starting it, in a folder of our own."""
    monkeypatch.chdir(tmp_path)
    reply = {"cuda": [["NVIDIA H100", 8e10]], "mps": False, "built": "12.4"}
    out = subprocess.CompletedProcess([], 0, json.dumps(reply), "")
    monkeypatch.setattr(doctor.subprocess, "run", lambda *_, **__: out)
    return out


def by_name():
    return {check.name: check for check in checks()}


def needs(name):
    """The distributions of an extra, those of extras inside it too."""
    for text in PROJECT["optional-dependencies"][name]:
        inside = re.fullmatch(r"isoflop\[(.*)\]", text)
        if inside:
            for other in inside[1].split(","):
                yield from needs(other)
        else:
            yield re.split(r"[\[<>=]", text)[0]


def test_the_extras_are_those_of_the_package():
    for extra, (_, names) in EXTRAS.items():
        assert set(names.split()) <= set(needs(extra)), extra
    assert set(PROJECT["optional-dependencies"]) - set(EXTRAS) == {"dev", "docs", "exports"}
    light = {re.split("[<>=]", t)[0]: t.split("=")[1] for t in PROJECT["dependencies"]}
    assert doctor.NEEDED == light


def test_a_whole_installation_is_ok_and_exits_with_0(seen):
    result = CliRunner().invoke(main, ["doctor"])
    assert result.exit_code == 0, result.output
    assert result.stdout.splitlines()[-1] == "nothing is broken"
    assert max(map(len, result.stdout.splitlines())) <= 80
    document = json.loads(CliRunner().invoke(main, ["doctor", "--json"]).stdout)
    assert document["schema"] == "isoflop.doctor/1" and document["ok"]
    found = {c["name"]: c for c in document["checks"]}
    assert "NVIDIA H100 (80.0GB)" in found["devices"]["found"]
    assert found["runs/"]["state"] == "ok" and "made when needed" in found["runs/"]["found"]


def test_what_is_missing_names_the_command_that_installs_it(seen, monkeypatch):
    installed = importlib.metadata.version

    def version(name):
        if name in ("typst", "torch"):
            raise importlib.metadata.PackageNotFoundError(name)
        return installed(name)

    monkeypatch.setattr(importlib.metadata, "version", version)
    found = by_name()
    assert found["[report]"].state == found["[train]"].state == "absent"
    assert found["[report]"].todo == "pip install 'isoflop[report]'"
    assert "missing typst" in found["[report]"].found
    assert "devices" not in found and "compiler" not in found
    assert CliRunner().invoke(main, ["doctor"]).exit_code == 0


def test_an_old_library_a_broken_torch_and_a_closed_folder_are_broken(seen, monkeypatch):
    installed = importlib.metadata.version
    old = lambda name: "1.9.3" if name == "scipy" else installed(name)  # noqa: E731
    monkeypatch.setattr(importlib.metadata, "version", old)
    seen.stdout, seen.stderr = "", "Traceback\nImportError: libcudart.so.12: cannot open"
    Path("reports").write_text("a file in the way")
    found = by_name()
    assert found["scipy"].state == "broken" and "1.11 or newer" in found["scipy"].found
    assert found["devices"].state == "broken" and "libcudart" in found["devices"].found
    assert found["reports/"].state == "broken"
    result = CliRunner().invoke(main, ["doctor"])
    assert result.exit_code == 1 and "3 broken" in result.stdout
    assert "pip install 'scipy>=1.11'" in result.stdout


def test_a_gpu_that_a_torch_for_cpus_cannot_use_is_broken(seen, monkeypatch):
    seen.stdout = json.dumps({"cuda": [], "mps": False, "built": None})
    monkeypatch.setattr(doctor.shutil, "which", lambda name: f"/usr/bin/{name}")
    assert by_name()["devices"].state == "broken"
    monkeypatch.setattr(doctor.shutil, "which", lambda name: None)
    found = by_name()
    assert found["devices"].state == "ok" and "no GPU" in found["devices"].found
    assert found["compiler"].state == "absent" and "train.compile=off" in found["compiler"].todo


def test_the_doctor_imports_no_torch():
    code = "import sys, fit.cli.doctor; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)


def test_the_text_says_what_to_do_at_the_end():
    rows = [Check(name="a", state="broken", found="x", todo="Repair it."),
            Check(name="b", state="ok", found="y")]  # fmt: skip
    text = doctor_text(rows).splitlines()
    assert text[-1] == "1 broken" and "Repair it." in text[-3]
