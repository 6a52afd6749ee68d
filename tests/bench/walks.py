"""How many modules a value passes on its way: `python -m tests.bench.walks [TREE]`.

Four commands run under a profiler, each in a process of its own. Counted are the modules of `fit`
and `sweep` that are called into, the pairs of modules of which one calls the other, and the pairs
in which the called module stands higher: a module's floor is one more than the highest floor among
those that it imports, and a call upwards is a callback, or a hand-over that has to come back. A
tree of an earlier commit can be given.
"""

import json
import subprocess
import sys
import tempfile
from pathlib import Path

from tests import architecture

WALKS = {
    "table -> fit.json": "fit|fit|runs/reference|--no-report|--resamples|200|--out|{out}/pilot",
    "question -> answer": "fit|query|1e13|--fit|reports/reference|--max-params|100k|--json",
    "override -> record": "sweep|model.width=16|model.depth=1|train.tokens=2e4|data.size=demo"
    "|train.compile=off|tracking=none|runs_dir={out}|name=walk",
    "fit.json -> PDF": "fit|report|reports/reference|--format|html|--out|{out}/r",
}
TRACE = """
import json, runpy, sys
root, package = sys.argv[1], sys.argv[2]
sys.argv = [package, *sys.argv[3:]]
calls = {}
def module(frame):
    file = frame.f_code.co_filename
    return file[len(root) + 1 : -3] if file.startswith((root + "/fit/", root + "/sweep/")) else None
def watch(frame, event, argument):
    if event == "call" and not frame.f_code.co_name.startswith("<"):
        to = module(frame)
        back = frame.f_back
        while to and back and module(back) is None:
            back = back.f_back
        if to and back and module(back) != to:
            key = module(back) + " " + to
            calls[key] = calls.get(key, 0) + 1
sys.setprofile(watch)
try:
    runpy.run_module(package, run_name="__main__", alter_sys=True)
except SystemExit:
    pass
sys.setprofile(None)
print("CALLS" + json.dumps(calls))
"""


def floors(root: Path) -> dict[str, int]:
    """The floor of every module: one above the highest of those that it imports when loaded."""
    known = architecture.modules(root)
    arrows = {
        n: {o for o in architecture.imported_names(p, at_import=True) & known.keys() if o != n}
        for n, p in known.items()
    }
    out: dict[str, int] = {}

    def floor(name: str, above: tuple[str, ...] = ()) -> int:
        if name not in out:
            below = [floor(o, (*above, name)) for o in arrows[name] if o not in above]
            out[name] = 1 + max(below, default=0)
        return out[name]

    for name in arrows:
        floor(name)
    return out


def walk(root: Path, command: str) -> tuple[int, int, int]:
    """Modules entered, pairs of modules that call each other, and pairs that call upwards."""
    with tempfile.TemporaryDirectory() as folder:
        arguments = command.format(out=folder).split("|")
        shown = subprocess.run(
            [sys.executable, "-c", TRACE, str(root), *arguments],
            cwd=root, capture_output=True, text=True,
        )  # fmt: skip
    lines = [x for x in shown.stdout.splitlines() if "CALLS" in x]
    if not lines:
        raise SystemExit(shown.stderr)
    calls = json.loads(lines[-1].partition("CALLS")[2])
    height = floors(root)
    pairs = [tuple(m.replace("/", ".") for m in key.split()) for key in calls]
    rooms = {m for pair in pairs for m in pair}
    up = [p for p in pairs if height.get(p[0], 0) <= height.get(p[1], 0)]
    return len(rooms), len(pairs), len(up)


def main() -> None:
    """Print a row for each walk."""
    root = Path(sys.argv[1]).resolve() if len(sys.argv) > 1 else architecture.ROOT
    print(f"{'walk':22}{'modules':>9}{'arrows':>9}{'upwards':>9}")
    for name, command in WALKS.items():
        rooms, pairs, up = walk(root, command)
        print(f"{name:22}{rooms:>9}{pairs:>9}{up:>9}")


if __name__ == "__main__":
    main()
