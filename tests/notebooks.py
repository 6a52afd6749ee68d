"""The cells of a notebook, run without jupyter; `python -m tests.notebooks` stores what they show.

A cell is executed as jupyter does it: its last expression, if it is one, is shown.
"""

from __future__ import annotations

import ast
import base64
import contextlib
import io
import json
import os
from pathlib import Path

ROOT = Path(__file__).parents[1]
TUTORIAL = ROOT / "docs" / "tutorial.ipynb"


def code_cells(notebook):
    """The cells of code of a notebook, in order."""
    return [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]


def run_cells(notebook, folder):
    """What each cell of code prints and shows, run in a folder in order: (text, value)."""
    names, shown = {}, []
    with contextlib.chdir(folder):
        for cell in code_cells(notebook):
            shown.append(run_cell("".join(cell["source"]), names))
    return shown


def run_cell(source, names):
    """What a cell prints, and the value of its last expression; None where it has none."""
    body = ast.parse(source).body
    last = body.pop() if body and isinstance(body[-1], ast.Expr) else None
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        exec(compile(ast.Module(body, []), "cell", "exec"), names)
        value = None
        if last is not None and not source.rstrip().endswith(";"):
            value = eval(compile(ast.Expression(last.value), "cell", "eval"), names)
        elif last is not None:
            exec(compile(ast.Module([last], []), "cell", "exec"), names)
    return printed.getvalue(), value


def outputs(printed, value):
    """The outputs of a cell as a notebook stores them: text, and a figure as a picture."""
    found = []
    if printed:
        found.append({"name": "stdout", "output_type": "stream", "text": lines(printed)})
    if value is None:
        return found
    data = {"text/plain": lines(repr(value))}
    if hasattr(value, "figure"):
        data = {"image/png": picture(value.figure), "text/plain": ["<Axes>"]}
    return [*found, {"data": data, "metadata": {}, "output_type": "display_data"}]


def lines(text):
    """Text as a notebook stores it."""
    return text.splitlines(keepends=True)


def picture(figure):
    """A figure in base 64."""
    data = io.BytesIO()
    figure.savefig(data, format="png", dpi=70, metadata={"Software": None})
    return base64.b64encode(data.getvalue()).decode()


def main():
    """Store what the cells of the tutorial show now."""
    import shutil
    import tempfile

    import matplotlib

    matplotlib.use("Agg")
    notebook = json.loads(TUTORIAL.read_text())
    with tempfile.TemporaryDirectory() as folder:
        shutil.copy(ROOT / "docs" / "export.csv", folder)
        shown = run_cells(notebook, folder)
    for cell, (printed, value) in zip(code_cells(notebook), shown, strict=True):
        cell["outputs"] = outputs(printed, value)
    TUTORIAL.write_text(json.dumps(notebook, indent=1, ensure_ascii=False) + os.linesep)


if __name__ == "__main__":
    main()
