"""conf -> sweep -> fit, never back; and inside a package only upwards in design's order."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
HEAVY = {"torch", "lightning", "hydra", "omegaconf", "wandb", "sweep", "tokenizers", "datasets"}
FILES = sorted([*ROOT.glob("fit/*.py"), *ROOT.glob("sweep/*.py")])


def imported(path: Path) -> set[str]:
    """Modules that a file imports, inside functions too; what it does as a script is left out."""
    names: set[str] = set()
    tree = ast.parse(path.read_text())
    tree.body = [n for n in tree.body if not (isinstance(n, ast.If) and "__main__" in ast.dump(n))]
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return names


@pytest.mark.parametrize("path", [p for p in FILES if p.parent.name == "fit"], ids=lambda p: p.name)
def test_fit_imports_nothing_heavy(path):
    assert not {name.split(".")[0] for name in imported(path)} & HEAVY


def test_imports_inside_each_package_have_no_circle():
    graph = {
        f"{p.parent.name}.{p.stem}": {n for n in imported(p) if n.count(".") == 1}
        for p in FILES
        if p.stem not in ("__init__", "__main__")
    }
    done: set[str] = set()

    def visit(name: str, path: tuple[str, ...]) -> None:
        assert name not in path, " -> ".join([*path, name])
        if name in graph and name not in done:
            for other in graph[name] & graph.keys():
                visit(other, (*path, name))
            done.add(name)

    for name in graph:
        visit(name, ())
    assert done == graph.keys()


def test_importing_fit_leaves_the_heavy_packages_out():
    modules = [f"fit.{p.stem}" for p in FILES if p.parent.name == "fit" and p.stem != "__main__"]
    code = (
        f"import sys, importlib\nfor m in {modules}: importlib.import_module(m)\n"
        f"print(sorted({HEAVY!r} & set(sys.modules)))"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert out.stdout.strip() == "[]", out.stderr


def test_files_stay_below_400_lines():
    assert not [p.name for p in FILES if len(p.read_text().splitlines()) > 400]
