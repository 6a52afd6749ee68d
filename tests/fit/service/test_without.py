"""A fit without some of its runs: the law of a table without them, and N* by the split of that."""

import numpy as np
import pytest

from fit.allocation.allocate import split
from fit.comparison.multiplier import refit_from_points
from fit.fitting import FitOptions, fit_table
from fit.results import write_fit
from tests.fit.comparison.builders import sweep_table
from tests.fit.service.client import ask, pilot, service


@pytest.fixture(scope="module")
def fitted(tmp_path_factory):
    """A service of a fit of runs with noise, and the table of it."""
    root = pilot(tmp_path_factory.mktemp("without"))
    table = sweep_table(seed=3)
    write_fit(root / "noisy", fit_table(table, FitOptions(resamples=0)))
    return service(root), table


def test_a_fit_without_runs_is_the_fit_of_the_table_without_them(fitted):
    served, table = fitted
    source = served.registry.get("noisy").source
    assert refit_from_points(source.fit) is not None
    document = ask(served, "/v1/without?fit=noisy&row=0&row=7&flops=1e20").json()
    gone = [source.fit.points.run[row] for row in (0, 7)]
    assert document["runs"] == gone and document["runs_used"] == len(table) - 2
    kept = table.take(~np.isin(table.run, gone), reason="left out")
    again = fit_table(kept, FitOptions(resamples=0))
    theta = np.array(list(again.theta.values()))
    best = split(source.plain.law, theta, np.array([1e20]), source.cost)
    assert document["left"]["params"] == pytest.approx(np.exp(best.log_params[0]), rel=1e-4)
    assert document["left"]["loss"] == pytest.approx(np.exp(best.log_loss[0]), rel=1e-5)
    assert document["left"] != document["all"]


def test_a_budget_in_money_is_read_as_by_a_query(fitted):
    asked = "/v1/without?fit=noisy&row=0&flops=1k$ on h100"
    document = ask(fitted[0], asked).json()
    query = ask(fitted[0], "/v1/query?fit=noisy&flops=1k$ on h100").json()
    assert document["at"] == pytest.approx(query["flops"]["value"])
    assert "price_assumed" in {w["code"] for w in document["warnings"]}


def test_the_move_of_one_run_is_its_influence(fitted):
    served, _ = fitted
    source = served.registry.get("noisy").source
    top = next(row for row in source.fit.influence if row.kind == "run")
    row = source.fit.points.run.index(top.run)
    runs = ask(served, "/v1/curves?fit=noisy").json()["runs"]
    (shown,) = [r for r in runs if r["row"] == row]
    assert shown["influence"] == pytest.approx(top.shift)
    document = ask(served, f"/v1/without?fit=noisy&row={row}").json()
    move = np.log(document["left"]["params"] / document["all"]["params"])
    assert move == pytest.approx(top.shift, rel=0.05, abs=1e-3)  # that keeps the loss's threshold


@pytest.mark.parametrize(
    "query, word",
    [
        ("fit=noisy", "row"),
        ("fit=noisy&row=-1", "row"),
        ("fit=noisy&row=999", "no run 999"),
        ("fit=blind&row=0", "refused"),
        ("fit=noisy&" + "&".join(f"row={i}" for i in range(60)), "times"),
        ("fit=noisy&row=0&flops=x", "flops"),
        ("fit=noisy&row=0&flops=1e30", "beyond the largest budget fitted"),
    ],
)
def test_what_cannot_be_left_out_is_refused(fitted, query, word):
    reply = ask(fitted[0], f"/v1/without?{query}")
    assert reply.status_code == 422 and word in reply.text


def test_runs_that_no_fit_would_take_are_not_fitted_without_the_others(fitted):
    served, table = fitted
    points = served.registry.get("noisy").source.fit.points
    few = "&".join(f"row={i}" for i in range(5, len(table)))
    reply = ask(served, f"/v1/without?fit=noisy&{few}")
    assert reply.status_code == 422 and "needs 6 distinct (params, tokens) points" in reply.text
    assert "the rest has 5" in reply.text
    sizes = np.unique(points.params)[2:]
    two = "&".join(f"row={i}" for i in np.flatnonzero(np.isin(points.params, sizes)))
    reply = ask(served, f"/v1/without?fit=noisy&{two}")
    assert reply.status_code == 422 and "not identified by the runs" in reply.text


def test_a_law_that_the_runs_left_barely_determine_is_said_to_be(fitted, monkeypatch):
    served, _ = fitted
    assert ask(served, "/v1/without?fit=noisy&row=0").json()["warnings"] == []
    monkeypatch.setattr("fit.inference.resampling.kappa", lambda estimate: 400.0)
    document = ask(served, "/v1/without?fit=noisy&row=1").json()
    (warning,) = document["warnings"]
    assert "barely identified by the runs (kappa 400" in warning["message"]
