"""The structure of the code, measured from its imports.

`python -m tests.architecture [TREE]` prints it.

`PACKAGES` is the one ordered list of packages: a module imports only from its own package and from
those that stand before it. The tests in test_architecture.py hold the code against it.
"""

import ast
import functools
import statistics
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]

PACKAGES = (
    ("fit.errors",),
    ("fit.quantities", "fit.files", "fit.verdict", "fit.note_codes", "fit.release"),
    ("fit.data",),
    ("fit.laws", "fit.results"),
    ("fit.estimation",),
    ("fit.inference",),
    ("fit.diagnostics", "fit.allocation"),
    ("fit.fitting", "fit.query", "fit.scores"),
    ("fit.design", "fit.comparison", "fit.forecasts"),
    ("fit.report", "fit.service"),
    ("fit.cli", "fit.interface"),
    ("isoflop",),
    ("sweep.config", "sweep.settings", "sweep.cache", "sweep.model", "sweep.plugins", "sweep.data"),
    ("sweep.planning",),
    ("sweep.writing",),
    ("sweep.skills",),
    ("sweep.training",),
    ("sweep.launch", "sweep.plan"),
    ("sweep.app", "sweep.rehearse", "sweep.fetch", "sweep.write", "sweep.ladder", "sweep.depth"),
)
"""Ground floor first. Packages of one row may import one another, as long as there is no circle."""

HEAVY = frozenset({"torch", "lightning", "hydra", "omegaconf", "wandb", "tokenizers", "datasets"})
"""What `fit` never imports, besides `sweep`."""


def modules(root: Path = ROOT) -> dict[str, Path]:
    """The modules of `fit` and `sweep` by dotted name, without the empty faces of packages."""
    out = {}
    for package in ("fit", "sweep"):
        for path in sorted((root / package).rglob("*.py")):
            parts = path.relative_to(root).with_suffix("").parts
            if parts[-1] == "__main__":
                continue
            out[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return out


def imported_names(path: Path, *, at_import: bool = False) -> set[str]:
    """Dotted names that a file imports.

    Args:
        path: The file.
        at_import: Only what is imported when the module is, not inside functions or for types.
    """
    names: set[str] = set()
    for node in _nodes(ast.parse(path.read_text()), at_import):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return names


def _nodes(node: ast.AST, at_import: bool) -> Iterator[ast.AST]:
    """Every node below one; on request without functions, scripts and blocks for type checkers."""
    for child in ast.iter_child_nodes(node):
        script = isinstance(child, ast.If) and "__main__" in ast.dump(child.test)
        types = isinstance(child, ast.If) and "TYPE_CHECKING" in ast.dump(child.test)
        function = isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef)
        if script or (at_import and (types or function)):
            continue
        yield child
        yield from _nodes(child, at_import)


@functools.cache
def graph(root: Path = ROOT) -> dict[str, set[str]]:
    """The modules that each module imports, inside functions too."""
    known = modules(root)
    return {name: (imported_names(path) & known.keys()) - {name} for name, path in known.items()}


def level(module: str) -> int | None:
    """The row of `PACKAGES` that a module stands in."""
    for i, row in enumerate(PACKAGES):
        if any(module == p or module.startswith(f"{p}.") for p in row):
            return i
    return None


def upward(arrows: dict[str, set[str]]) -> list[tuple[str, str]]:
    """Imports from a package that stands later in the list."""
    out = []
    for module, others in arrows.items():
        own = level(module)
        for other in sorted(others):
            there = level(other)
            if own is not None and there is not None and there > own:
                out.append((module, other))
    return out


def circles(arrows: dict[str, set[str]]) -> list[list[str]]:
    """Groups of modules that import one another in a loop (strongly connected components)."""
    index: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    out: list[list[str]] = []

    def visit(name: str) -> None:
        index[name] = low[name] = len(index)
        stack.append(name)
        for other in arrows[name]:
            if other not in index:
                visit(other)
                low[name] = min(low[name], low[other])
            elif other in stack:
                low[name] = min(low[name], index[other])
        if low[name] == index[name]:
            group = stack[stack.index(name) :]
            del stack[stack.index(name) :]
            if len(group) > 1:
                out.append(sorted(group))

    for name in arrows:
        if name not in index:
            visit(name)
    return out


def package_circles(arrows: dict[str, set[str]]) -> list[list[str]]:
    """Circles between sub-packages: pairs of rooms that lean on each other."""

    def room(module: str) -> str:
        return ".".join(module.split(".")[:2])

    rooms: dict[str, set[str]] = {room(m): set() for m in arrows}
    for module, others in arrows.items():
        rooms[room(module)] |= {room(o) for o in others} - {room(module)}
    return circles(rooms)


def classes(root: Path = ROOT) -> dict[str, list[str]]:
    """Public top-level classes and the modules that define them."""
    out: dict[str, list[str]] = {}
    for name, path in modules(root).items():
        for node in ast.parse(path.read_text()).body:
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                out.setdefault(node.name, []).append(name)
    return out


def main() -> None:
    """Print the figures of a tree."""
    root = Path(sys.argv[1]).resolve() if len(sys.argv) > 1 else ROOT
    known, arrows = modules(root), graph(root)
    sizes = {n: len(p.read_text().splitlines()) for n, p in known.items()}
    rooms = {n: s for n, s in sizes.items() if known[n].name != "__init__.py"}
    tests = sum(len(p.read_text().splitlines()) for p in (root / "tests").rglob("*.py"))
    longest = max(rooms, key=lambda n: rooms[n])
    counts = [len(arrows[n]) for n in rooms]
    for package in ("fit", "sweep"):
        own = [s for n, s in sizes.items() if n.split(".")[0] == package]
        print(f"{package + ' lines':24}{sum(own)}")
    print(f"{'test lines':24}{tests}")
    print(f"{'modules':24}{len(rooms)}")
    print(f"{'packages':24}{len({n.rpartition('.')[0] for n in rooms})}")
    print(f"{'median module':24}{statistics.median(rooms.values()):.0f} lines")
    print(f"{'longest module':24}{longest}, {rooms[longest]} lines")
    print(f"{'own imports a module':24}{statistics.mean(counts):.1f}")
    print(f"{'circles of modules':24}{len(circles(arrows))}")
    print(f"{'circles of packages':24}{len(package_circles(arrows))}")
    print(f"{'imports up the list':24}{len(upward(arrows))}")
    twice = {n: w for n, w in classes(root).items() if len(w) > 1}
    print(f"{'class names twice':24}{len(twice)}")
    for one, other in upward(arrows):
        print(f"  up: {one} -> {other}")
    for group in circles(arrows):
        print(f"  circle: {' '.join(group)}")


if __name__ == "__main__":
    main()
