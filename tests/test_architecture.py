"""conf -> sweep -> fit, never back; inside, down the one ordered list of packages."""

import subprocess
import sys

import pytest

from tests import architecture

ROOT = architecture.ROOT
FIT = {name: path for name, path in architecture.modules().items() if name.split(".")[0] == "fit"}


@pytest.mark.parametrize("name", FIT)
def test_fit_imports_nothing_heavy(name):
    packages = {imported.split(".")[0] for imported in architecture.imported_names(FIT[name])}
    assert not packages & (architecture.HEAVY | {"sweep"})


def test_every_module_has_its_place_in_the_list_of_packages():
    known = architecture.modules()
    empty = [n for n, path in known.items() if path.name == "__init__.py"]
    assert [n for n in known if architecture.level(n) is None and n not in empty] == []


def test_imports_go_down_the_list_of_packages():
    assert architecture.upward(architecture.graph()) == []


def test_no_modules_and_no_packages_import_each_other_in_a_circle():
    arrows = architecture.graph()
    assert architecture.circles(arrows) == []
    assert architecture.package_circles(arrows) == []


def test_importing_fit_leaves_the_heavy_packages_out():
    code = (
        f"import sys, importlib\nfor m in {sorted(FIT)}: importlib.import_module(m)\n"
        f"print(sorted({set(architecture.HEAVY)!r} & set(sys.modules)))"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert out.stdout.strip() == "[]", out.stderr


def test_files_stay_below_500_lines_and_there_are_at_most_173():
    sizes = {n: len(p.read_text().splitlines()) for n, p in architecture.modules().items()}
    assert {n: s for n, s in sizes.items() if s > 500} == {}
    assert len([n for n, p in architecture.modules().items() if p.name != "__init__.py"]) <= 173


def test_a_public_class_has_one_name():
    assert {n: w for n, w in architecture.classes().items() if len(w) > 1} == {}


def test_every_package_says_what_lives_there():
    for path in architecture.modules().values():
        if path.name == "__init__.py":
            assert path.read_text().startswith('"""'), path
