"""Every law from the command line."""

import json

import pandas as pd
import pytest
from click.testing import CliRunner

from fit.cli.main import main
from fit.laws.families import LAWS, law
from tests.fit.laws.builders import TRUTH, lawful

pytestmark = pytest.mark.usefixtures("few_checks")


def run(*args):
    return CliRunner().invoke(main, [*map(str, args)])


def written(path, name, noise=2e-3):
    table = lawful(law(name), TRUTH[name], noise=noise)
    core = {c: table.column(c) for c in ("params", "tokens", "loss")}
    pd.DataFrame({**core, **table.columns}).to_csv(path, index=False)
    return path


SLOW = pytest.mark.slow  # nine parameters; tests/fit/laws fits them among the fast tests
LOSSES = [n for n, f in LAWS.items() if f.target == "loss"]


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=SLOW if n == "farseer" else ()) for n in LOSSES]
)
def test_a_table_is_fitted_by_every_law_and_asked(tmp_path, name):
    table, folder = written(tmp_path / "t.csv", name), tmp_path / "fit"
    made = run("fit", table, "--law", name, "--out", folder, "--resamples", 20, "--no-report")
    assert made.exit_code == 0, made.output
    assert max(map(len, made.output.splitlines()[:-2])) <= 80  # the last two lines hold a path
    fit = json.loads((folder / "fit.json").read_text())
    assert list(fit["theta"]) == list(law(name).parameters)
    options = [v for c in law(name).further for v in (f"--{c.replace('_', '-')}", "1e9")]
    ask = ("predict", "--params", "1e8", "--tokens", "1e10", *options, "--fit", folder, "--json")
    result = json.loads(run(*ask).output)
    assert result["loss"]["low"] < result["loss"]["value"] < result["loss"]["high"]


@pytest.mark.parametrize("name", [n for n in LOSSES if LAWS[n].further])
def test_what_a_law_needs_is_said_in_one_line(tmp_path, name):
    table = written(tmp_path / "t.csv", name)
    folder = tmp_path / "fit"
    run("fit", table, "--law", name, "--out", folder, "--resamples", 0, "--no-report")
    for ask in (("query", "1e20"), ("predict", "--params", "1e8", "--tokens", "1e10")):
        result = run(*ask, "--fit", folder)
        assert result.exit_code == 1
        assert f"depends on {law(name).further[0]}" in result.output
        assert result.output.count("\n") == 1
    pd.read_csv(table)[["params", "tokens", "loss"]].to_csv(table, index=False)
    if name == "compute":  # its column follows from params and tokens
        return
    result = run("fit", table, "--law", name, "--out", folder)
    assert result.exit_code == 1
    assert f"needs a column {', '.join(law(name).further)}" in result.output
    assert result.output.count("\n") == 1


def test_a_base_law_is_held(tmp_path):
    table = written(tmp_path / "t.csv", "data-constrained")
    base = written(tmp_path / "base.csv", "chinchilla")
    run("fit", base, "--out", tmp_path / "base", "--resamples", 0, "--no-report")
    args = ("fit", table, "--law", "data-constrained", "--resamples", 0, "--no-report", "--out")
    for named in ("muennighoff2023", tmp_path / "base"):
        result = run(*args, tmp_path / "fit", "--base", named)
        assert result.exit_code == 0, result.output
        assert result.output.count("  held") == 5
    fit = json.loads((tmp_path / "fit" / "fit.json").read_text())
    assert (
        fit["theta"]["E"] == json.loads((tmp_path / "base" / "fit.json").read_text())["theta"]["E"]
    )
    assert fit["interval"]["R_D*"][0] < fit["theta"]["R_D*"] < fit["interval"]["R_D*"][1]


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (("--base", "nowhere"), "cannot read the fit"),
        (("--base", "kaplan2020"), "law 'kaplan' is not E + A/N^alpha"),
        (("--hold", "E=none"), "NAME=VALUE is needed"),
        (("--hold", "F=3"), "cannot hold 'F'"),
    ],
)
def test_what_cannot_be_held_is_one_line(tmp_path, args, words):
    result = run("fit", written(tmp_path / "t.csv", "chinchilla"), *args)
    assert result.exit_code == 1
    assert words in result.output
    assert result.output.count("\n") == 1


def test_a_query_over_repeats_names_its_options_again():
    result = run("query", "1e22", "--law", "muennighoff2023-repeated", "--unique-tokens", "25B")
    assert result.exit_code == 0
    assert "237B" in result.output
    assert "9.49 epochs" in result.output
    borrowed = run("query", "1e22", "--law", "besiroglu2024", "--unique-tokens", "25B")
    assert "borrowed from C4" in " ".join(borrowed.output.split())
    refused = run("query", "1e22", "--law", "kaplan2020", "--unique-tokens", "25B")
    assert "does not depend on unique_tokens" in refused.output


def test_laws_lists_the_families_with_what_they_need():
    text = run("laws").output
    assert max(map(len, text.splitlines())) <= 80
    document = json.loads(run("laws", "--json").output)
    assert [f["name"] for f in document["families"]] == list(LAWS)
    assert "unique_tokens" in document["families"][list(LAWS).index("data-constrained")]["columns"]


@pytest.mark.slow
def test_a_declared_law_has_a_report(tmp_path):
    table, folder = written(tmp_path / "t.csv", "outer"), tmp_path / "fit"
    result = run("fit", table, "--law", "outer", "--out", folder, "--resamples", 20)
    assert result.exit_code == 0, result.output
    assert (folder / "report.pdf").read_bytes().startswith(b"%PDF")


@pytest.mark.usefixtures("few_figures")
def test_a_law_of_a_further_column_has_a_report(tmp_path):
    moe = written(tmp_path / "moe.csv", "moe")
    result = run("fit", moe, "--law", "moe", "--out", tmp_path / "moe", "--resamples", 0)
    assert result.exit_code == 0, result.output
    assert (tmp_path / "moe" / "report.pdf").read_bytes().startswith(b"%PDF")
