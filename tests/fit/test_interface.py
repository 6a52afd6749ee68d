"""A fitted law in a notebook: its methods give what the commands give."""

from __future__ import annotations

import copy
import dataclasses
import inspect
import pickle
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import isoflop
from fit.allocation.scaling_law import ScalingLaw
from fit.errors import RecordError
from fit.results import FIT_NAME

pytestmark = pytest.mark.usefixtures("few_checks")

ROOT = Path(__file__).parents[2]
REFERENCE = ROOT / "reports" / "reference"


@pytest.fixture(scope="module")
def law():
    return isoflop.read_fit(REFERENCE)


@pytest.fixture
def columns():
    n, d = (v.ravel() for v in np.meshgrid([1e6, 3e6, 1e7, 3e7], [2e7, 6e7, 2e8, 6e8]))
    return {"params": n, "tokens": d, "loss": 1.7 + 120 / n**0.34 + 400 / d**0.36}


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("runs.csv", "is a table, and a fit is needed. Fit it first: isoflop fit .*runs.csv"),
        ("runs.csv.gz", "is a table"),
        ("fit.pkl", "is no fit; the folder of a report or its fit.json is needed"),
    ],
)
def test_a_file_that_is_no_fit_says_what_to_do(tmp_path, name, said):
    (tmp_path / name).write_bytes(b"\xef\xbb\xbfparams,tokens,loss\n\x80")
    with pytest.raises(RecordError, match=said):
        isoflop.read_fit(tmp_path / name)


def test_a_published_law_has_no_report():
    with pytest.raises(RecordError, match="published law, which has no runs and no report"):
        ScalingLaw.at("besiroglu2024")


def test_the_law_is_shown_in_ten_lines_of_a_terminal(law):
    lines = repr(law).splitlines()
    assert len(lines) <= 10
    assert max(map(len, lines)) <= 80
    assert "TRUST" in lines[1]
    for name, value in law.theta.items():
        assert f"{name} {value:.4g} [" in repr(law)


def test_a_law_of_many_parameters_is_shown_in_ten_lines_too(law):
    more = {f"exponent_{i}": 1.0 for i in range(20)}
    found = repr(dataclasses.replace(law, theta={**law.theta, **more}))
    assert len(found.splitlines()) <= 10
    assert "exponent_0 1 " in found


def test_the_notebooks_table_has_every_parameter_and_no_markup_of_a_name(law):
    shown = law._repr_html_()
    assert all(f">{name}</th>" in shown for name in (*law.theta, *law.exponents))
    named = isoflop.fit(isoflop.load(ROOT / "runs/reference"), name="<b>x", resamples=0)
    assert "<b>x" not in named._repr_html_()


def test_the_summary_is_what_the_command_prints(law):
    from fit.report.text import fit_text

    assert law.summary() == fit_text(law) == repr(law.summary())


def test_the_frame_holds_the_runs_and_what_the_law_says_of_them(law):
    frame = law.to_frame()
    assert (
        frame.columns[:8].tolist() == "run params tokens flops loss fitted residual cluster".split()
    )
    assert len(frame) == law.runs_used
    by_hand = law.theta["E"] + sum(
        law.theta[s] / frame[c] ** law.theta[e]
        for s, c, e in (("A", "params", "alpha"), ("B", "tokens", "beta"))
    )
    assert frame["fitted"].to_numpy() == pytest.approx(by_hand.to_numpy(), rel=1e-9)


def test_what_is_saved_is_read_by_every_door(law, tmp_path):
    assert law.save(tmp_path / "mine") == tmp_path / "mine" / FIT_NAME
    again = isoflop.FittedLaw.load(tmp_path / "mine")
    assert again == law and hash(again) == hash(law)
    assert isoflop.read_fit(law.save(tmp_path / "one.json")) == law
    asked = isoflop.query(str(tmp_path / "mine"), "3e13")
    assert asked.params == isoflop.query(law, "3e13").params
    assert law != isoflop.fit(law.to_frame(), resamples=0)
    assert law != "reference"


def test_a_law_is_copied_and_pickled_whole(law):
    assert pickle.loads(pickle.dumps(law)) == copy.deepcopy(law) == law


@pytest.mark.parametrize("kind", ["loss", "isoflop", "params", "surface", "residuals"])
def test_a_figure_is_drawn_on_the_axes_that_are_given(law, kind):
    pytest.importorskip("matplotlib").use("Agg")
    from matplotlib import pyplot

    figure, ax = pyplot.subplots()
    try:
        assert law.plot(ax=ax, kind=kind) is ax
        assert ax.has_data() and ax.get_xlabel()
    finally:
        pyplot.close(figure)


def test_a_figure_has_axes_of_its_own_where_none_are_given(law):
    pytest.importorskip("matplotlib").use("Agg")
    from matplotlib import pyplot

    ax = law.plot()
    assert ax.get_xlabel() == "Compute C [FLOP]"
    pyplot.close(ax.figure)


def test_columns_rows_and_frames_of_three_libraries_give_one_fit(columns):
    frame = pd.DataFrame(columns)
    found = isoflop.fit(frame, resamples=0)
    forms = {
        "columns": columns,
        "lists": {k: v.tolist() for k, v in columns.items()},
        "rows": frame.to_dict("records"),
    }
    if (arrow := _optional("pyarrow")) is not None:
        forms["arrow"] = arrow.table(columns)
    if (polars := _optional("polars")) is not None:
        forms |= {"polars": polars.DataFrame(columns), "lazy": polars.LazyFrame(columns)}
    for form, runs in forms.items():
        assert isoflop.fit(runs, resamples=0).theta == found.theta, form


def _optional(name):
    try:
        return __import__(name)
    except ImportError:
        return None


def test_a_polars_frame_is_read_without_polars_own_conversion(columns):
    """It needs pyarrow, which `pip install isoflop` does not bring."""

    class Column:
        def __init__(self, name, values):
            self.name, self.values = name, values

        def to_list(self):
            return self.values.tolist()

    class Frame:
        def get_columns(self):
            return [Column(k, v) for k, v in columns.items()]

        def to_pandas(self):
            raise ModuleNotFoundError("pyarrow")

    assert isoflop.fit(Frame(), resamples=0).theta == isoflop.fit(columns, resamples=0).theta


def test_options_of_pairs_are_dictionaries_texts_or_pairs(columns):
    renamed = {
        "size_M": columns["params"] / 1e6,
        "tokens": columns["tokens"],
        "loss": columns["loss"],
    }
    want = isoflop.fit(columns, resamples=0).theta
    for column, unit in (
        ({"params": "size_M"}, {"params": "M"}),
        ("params=size_M", "params=M"),
        (["params=size_M"], ["params=M"]),
    ):
        found = isoflop.fit(renamed, column=column, unit=unit, resamples=0)
        assert found.theta == pytest.approx(want, rel=1e-9)
    table = isoflop.load(pd.DataFrame(columns))
    held = [
        isoflop.fit(runs, hold=hold, resamples=0).theta
        for runs in (columns, table)
        for hold in ({"E": 1.7}, "E=1.7", [("E", 1.7)])
    ]
    assert all(theta == held[0] for theta in held)
    assert held[0]["E"] == 1.7


def test_the_page_of_help_names_every_export_and_its_example_runs(columns, tmp_path, monkeypatch):
    text = isoflop.__doc__
    pytest.importorskip("matplotlib").use("Agg")
    functions = {n for n in isoflop.__all__ if inspect.isfunction(getattr(isoflop, n))}
    assert functions <= set(re.findall(r"^    (\w+) +\S", text, re.M))
    example = text.split("\n\n", 1)[1].split("What there is:")[0]
    code = inspect.cleandoc(example).replace("[...]", "COLUMNS.pop(0).tolist()")
    monkeypatch.chdir(tmp_path)
    # Runs a hundred times as large, from which the example's budget is no leap.
    larger = {name: values * (1 if name == "loss" else 100) for name, values in columns.items()}
    names = {"COLUMNS": list(larger.values())}
    exec(code, names)
    assert (tmp_path / "reports" / "mine" / FIT_NAME).exists()
    assert names["best"].params.value > 0


def test_every_public_function_and_method_says_what_it_takes_and_raises():
    for name in isoflop.__all__:
        assert inspect.getdoc(getattr(isoflop, name)), name
    for function in ("fit", "load", "predict", "predict_many", "query", "record"):
        text = inspect.getdoc(getattr(isoflop, function))
        assert "Args:" in text and "Raises:" in text, function


def test_a_query_by_a_fitted_law_imports_no_pandas_and_no_matplotlib():
    code = (
        "import sys, isoflop\n"
        f"law = isoflop.read_fit({str(REFERENCE)!r})\n"
        "isoflop.query(law, '3e13'), law.predict([3e4, 5e4], 1e7), repr(law), law._repr_html_()\n"
        "print(sorted({'pandas', 'matplotlib', 'scipy.optimize', 'torch'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.stdout.strip() == "[]", done.stdout + done.stderr


@pytest.mark.slow
def test_a_users_script_is_typed(tmp_path):
    (tmp_path / "script.py").write_text(
        "import isoflop\n"
        "import numpy as np\n"
        "law = isoflop.fit({'params': [1.0], 'tokens': [1.0], 'loss': [1.0]}, level=0.9)\n"
        "found = law.predict(np.array([1e8]), '20B')\n"
        "half: np.ndarray = (found.high - found.low) / 2\n"
        "best: float = isoflop.query(law, '1e21').loss.value\n"
        "reveal_type(law)\n"
        "reveal_type(found.loss)\n"
        "law.predict(1)\n"
    )
    mypy = (sys.executable, "-m", "mypy", "--strict", "script.py")
    done = subprocess.run(
        mypy, cwd=tmp_path, capture_output=True, text=True, env={"MYPYPATH": str(ROOT)}
    )
    assert 'Revealed type is "fit.interface.FittedLaw"' in done.stdout
    assert "float64" in done.stdout or "floating" in done.stdout
    errors = [line for line in done.stdout.splitlines() if "script.py" in line and "error" in line]
    assert len(errors) == 1 and "predict" in errors[0], done.stdout


def test_the_example_of_the_package_is_the_committed_fit_without_its_draws(tmp_path, monkeypatch):
    from fit.results import EXAMPLE

    monkeypatch.chdir(tmp_path)
    committed = isoflop.read_fit(REFERENCE)
    bare = {"draws": committed.draws[:0], "moves": committed.moves[:0]}
    assert isoflop.read_fit("example") == dataclasses.replace(committed, name="example", **bare)
    asked = [isoflop.query(source, "3e13") for source in ("example", REFERENCE)]
    assert asked[0].loss == asked[1].loss and asked[0].config == asked[1].config
    # A folder of that name with a fit of one's own comes first.
    committed.save("example")
    assert isoflop.read_fit("example").name == "reference"
    assert len(EXAMPLE.read_bytes()) < 50_000
