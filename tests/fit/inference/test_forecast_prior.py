"""A user's own earlier fits as the prior of a forecast."""

import json
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

import isoflop
from fit.cli.main import main
from fit.errors import FitError
from fit.inference.forecast_prior import POPULATION, SPREAD, prior_beside
from fit.results import read_fit, write_fit
from tests.fit.inference.test_forecast import bent, sweep

pytestmark = pytest.mark.usefixtures("few_checks")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Report folder of an earlier sweep of a bent law."""
    out = tmp_path_factory.mktemp("reports") / "earlier"
    write_fit(out, isoflop.fit(sweep(bent, seed=1), name="earlier", resamples=0))
    return out


def few():
    """The cheap end of another sweep of that law: ten runs."""
    runs = sweep(bent, seed=2)
    flops = runs.params * runs.tokens
    return runs[flops < np.sort(flops)[14]].iloc[:13]


def test_without_earlier_fits_the_prior_is_that_of_public_sweeps():
    assert prior_beside([], isoflop.load(sweep())) is POPULATION


def test_an_earlier_fit_moves_the_prior_to_it_and_narrows_it(folder):
    prior = prior_beside([read_fit(folder)], isoflop.load(few()))
    shape = SPREAD < 100
    assert (prior.spread[shape] < SPREAD[shape]).all()
    assert (prior.spread[shape] > 0.35 * SPREAD[shape]).all()
    assert np.array_equal(prior.spread[~shape], SPREAD[~shape])


def test_a_few_runs_with_a_related_fit_forecast_nearer_and_narrower(folder):
    target = np.array([3e9]), np.array([6e10])
    truth = float(bent(*target)[0])
    alone = isoflop.fit(few(), resamples=0)
    beside = isoflop.fit(few(), resamples=0, prior=[str(folder)])
    found = [isoflop.predict(f, 3e9, 6e10, force=True).loss for f in (alone, beside)]
    assert found[1].high / found[1].low < found[0].high / found[0].low
    assert abs(np.log(found[1].value / truth)) < abs(np.log(found[0].value / truth))
    assert found[1].low < truth < found[1].high


def test_the_prior_is_kept_in_the_document_and_told(folder, tmp_path):
    few().to_csv(tmp_path / "few.csv", index=False)
    out = CliRunner().invoke(
        main,
        ["fit", str(tmp_path / "few.csv"), "--out", str(tmp_path / "r"), "--no-report"]
        + ["--prior", str(folder)],
    )
    assert out.exit_code == 0, out.output
    assert "prior learns from earlier" in " ".join(out.output.split())
    document = json.loads((tmp_path / "r" / "fit.json").read_text())
    assert len(document["forecast"]["prior"]["centre"]) == 8
    again = read_fit(tmp_path / "r")
    assert isoflop.query(again, 1e21, force=True).params.value > 0


def test_runs_that_would_count_twice_are_refused(folder):
    with pytest.raises(FitError, match="35 of its runs are among those to be fitted"):
        isoflop.fit(sweep(bent, seed=1), resamples=0, prior=[str(folder)])


@pytest.mark.parametrize("options", [{"law": "outer"}, {"discrepancy": "none"}])
def test_a_prior_without_a_forecast_is_refused(folder, options, tmp_path):
    with pytest.raises(FitError, match="these options have none"):
        isoflop.fit(few(), resamples=0, prior=[str(folder)], **options)
    write_fit(tmp_path, isoflop.fit(sweep(seed=3), resamples=0, **options))
    with pytest.raises(FitError, match="has no forecast"):
        isoflop.fit(few(), resamples=0, prior=[str(tmp_path)])


def test_an_entropy_that_is_known_is_the_forecasts_e():
    runs = Path(__file__).parents[3] / "runs/reference"
    found, known = (isoflop.fit(runs, resamples=0, entropy=e) for e in ("estimated", "known"))
    entropy = known.data["entropy"]
    assert found.theta == known.theta
    assert known.forecast.theta["E"] == pytest.approx(entropy, rel=0.004)
    far = [isoflop.query(f, 1e14, force=True) for f in (found, known)]
    narrow, wide = (a.loss.high / a.loss.low for a in reversed(far))
    assert narrow < wide
    assert far[1].loss.value > entropy


def test_an_entropy_that_nobody_states_is_refused():
    with pytest.raises(FitError, match="whose data state their entropy"):
        isoflop.fit(sweep(bent), resamples=0, entropy="known")
    with pytest.raises(FitError, match="unknown entropy 'guessed'"):
        isoflop.fit(sweep(bent), resamples=0, entropy="guessed")
