"""The wheel as users install it: without extras it answers, and says which extra is missing."""

from __future__ import annotations

import shutil
import subprocess
import sys
import venv
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
pytestmark = pytest.mark.slow


def run(*command: str | Path, cwd: Path) -> subprocess.CompletedProcess[str]:
    """A command's result, with its output as text."""
    return subprocess.run([str(c) for c in command], cwd=cwd, capture_output=True, text=True)


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    """The wheel of this checkout."""
    folder = tmp_path_factory.mktemp("wheel")
    pip = (sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "-w", folder, ROOT)
    built = run(*pip, cwd=folder)
    assert built.returncode == 0, built.stderr
    (path,) = folder.glob("*.whl")
    return path


@pytest.fixture(scope="module")
def bare(wheel, tmp_path_factory) -> Path:
    """The programs of an environment with the wheel and no extra."""
    folder = tmp_path_factory.mktemp("bare")
    venv.create(folder, with_pip=True)
    install = ("pip", "install", "-q", "-c", ROOT / "constraints.txt", wheel)
    made = run(folder / "bin" / "python", "-m", *install, cwd=folder)
    assert made.returncode == 0, made.stderr
    return folder / "bin"


def test_the_wheel_holds_every_package_its_configs_and_the_page(wheel):
    names = zipfile.ZipFile(wheel).namelist()
    for needed in (
        "isoflop.py",
        "fit/py.typed",
        "fit/example.json",
        "isoflop-stubs/__init__.pyi",
        "isoflop-stubs/py.typed",
        "fit/report/report.typ",
        "fit/service/page/index.html",
        "sweep/training/loop.py",
        "conf/config.yaml",
        "conf/experiment/demo.yaml",
    ):
        assert needed in names, needed
    assert not [n for n in names if n.startswith(("tests/", "docs/", "runs/"))]


def test_the_sdist_makes_the_same_wheel_without_git(wheel, tmp_path):
    """Built in a folder that is no checkout, as a packager does."""
    source = tmp_path / "source"
    left_out = (".*", "runs", "reports", "tests", "docs", "build", "*.egg-info")
    shutil.copytree(ROOT, source, ignore=shutil.ignore_patterns(*left_out))
    (source / "PKG-INFO").write_text(f"Version: {wheel.name.split('-')[1]}\n")  # as there is no tag
    build = f"import setuptools.build_meta as b; print(b.build_sdist({str(tmp_path)!r}))"
    made = run(sys.executable, "-c", build, cwd=source)
    assert made.returncode == 0, made.stderr
    (sdist,) = tmp_path.glob("*.tar.gz")
    pip = (sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation")
    built = run(*pip, "-w", tmp_path / "wheels", sdist, cwd=tmp_path)
    assert built.returncode == 0, built.stderr
    (again,) = (tmp_path / "wheels").glob("*.whl")
    assert again.name == wheel.name
    assert sorted(zipfile.ZipFile(again).namelist()) == sorted(zipfile.ZipFile(wheel).namelist())


def test_without_extras_the_readmes_first_commands_answer(bare, tmp_path):
    answer = run(bare / "isoflop", "query", "3e13", "--fit", "example", cwd=tmp_path)
    assert answer.returncode == 0, answer.stderr
    assert "TRUST" in answer.stdout
    installed = run(bare / "python", "-m", "pip", "list", cwd=tmp_path).stdout
    assert "torch" not in installed and "matplotlib" not in installed


def test_without_extras_a_published_law_answers_and_the_api_imports(bare, tmp_path):
    answer = run(bare / "isoflop", "query", "1e21", "--law", "besiroglu2024", cwd=tmp_path)
    assert answer.returncode == 0, answer.stderr
    assert "2.78B" in answer.stdout
    code = "import isoflop; print(isoflop.query('besiroglu2024', 1e21).params.value > 1e9)"
    python = run(bare / "python", "-c", code, cwd=tmp_path)
    assert python.stdout.strip() == "True", python.stderr


def test_a_script_that_uses_the_installed_module_is_checked_by_types(bare, tmp_path):
    script = tmp_path / "script.py"
    script.write_text(
        "import isoflop\n"
        "answer: isoflop.Answer = isoflop.query('besiroglu2024', 1e21)\n"
        "reveal_type(answer.params.value)\n"
        "isoflop.query('besiroglu2024', 1e21).no_such_field\n"
    )
    mypy = (sys.executable, "-m", "mypy", "--strict", "--python-executable", bare / "python")
    checked = run(*mypy, script, cwd=tmp_path)
    assert 'Revealed type is "float"' in checked.stdout.replace("builtins.", ""), checked.stdout
    assert checked.stdout.count("error:") == 1
    assert 'has no attribute "no_such_field"' in checked.stdout


@pytest.mark.parametrize(
    ("command", "extra"),
    [
        (("sweep", "-m", "model.width=16"), "isoflop[sweep]"),
        (("plan", "+experiment=demo"), "isoflop[sweep]"),
        (("rehearse", "answer.json"), "isoflop[sweep]"),
        (("fetch", "offline", "."), "isoflop[sweep]"),
        (("serve",), "isoflop[serve]"),
    ],
)
def test_a_missing_extra_is_one_line_that_says_what_to_install(bare, tmp_path, command, extra):
    result = run(bare / "isoflop", *command, cwd=tmp_path)
    assert result.returncode == 1, result.stdout
    assert extra in result.stderr
    assert "Traceback" not in result.stderr
    assert result.stderr.count("\n") == 1, result.stderr
