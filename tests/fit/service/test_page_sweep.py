"""A sweep on the page while it trains: its state, its new runs drawn, a fit made again loaded."""

import dataclasses
import shutil

import pytest

from fit.data.records import read_runs, write_record
from fit.results import write_fit
from tests.fit.builders import make_fit, make_points
from tests.fit.service.browser import forgive_refusals, opened, served_page, until
from tests.fit.service.client import SweepWorkers, finish, live_sweep, pilot, service
from tests.fit.service.test_page_axe import violations

pytestmark = pytest.mark.browser
WORDS = "document.querySelector('#sweep-words').textContent"
LEGEND = "document.querySelector('#figure-loss .legend').textContent"


@pytest.fixture
def live(site, tmp_path):
    """The browser on a page that follows a sweep with a fit of its first run, and its folder."""
    folder, reports = tmp_path / "runs" / "live", pilot(tmp_path / "reports")
    runs = live_sweep(folder)
    write_live(reports, folder, [runs[0].run])
    served = service(reports, runs=folder)
    with served_page(served) as url:
        yield (site[0], url, served), folder, reports
    served.close()


def write_live(reports, folder, known):
    """A fit of the sweep that knows some of its runs."""
    names = (*known, *(f"x{i}" for i in range(25 - len(known))))
    fit = make_fit(name="live", points=make_points(run=names))
    write_fit(reports / "live", dataclasses.replace(fit, source={"path": str(folder)}))


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 390])
def test_the_state_of_a_sweep_is_shown_and_has_no_serious_violation(live, width, scheme):
    site, _, _ = live
    size = {"width": width, "height": 900}
    with opened(site, "?fit=live&flops=1e13", viewport=size, color_scheme=scheme) as page:
        until(page, f"{WORDS}.startsWith('2 of 6 runs done, 1 running, 1 failed, 2 left. About')")
        until(page, f"{LEGEND}.includes('runs since the fit')")
        text = page.locator("#sweep").inner_text()
        assert "OutOfMemoryError" in text and "silent for 15." in text and "25%" in text
        assert "live does not know 1 run of this sweep" in text and "isoflop fit" in text
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        assert violations(page) == []


def test_runs_that_end_are_drawn_and_a_fit_made_again_is_loaded(live):
    site, folder, reports = live
    with opened(site, "?fit=live&flops=1e13") as page:
        until(page, f"{LEGEND}.includes('runs since the fit')")
        circles = page.locator("#figure-loss svg.chart g[stroke] circle").count()
        ended = dataclasses.replace(read_runs(folder).records[0], run="w16-t1200000")
        shutil.rmtree(folder / ".work-w16-t1200000")
        write_record(folder / ended.run, ended)
        until(page, f"{WORDS}.startsWith('3 of 6')")
        assert page.locator("#figure-loss svg.chart g[stroke] circle").count() == circles + 1
        write_live(reports, folder, [r.run for r in read_runs(folder).records])
        until(page, f"!{LEGEND}.includes('since the fit') && {LEGEND} !== ''")
        assert "does not know" not in page.locator("#sweep").inner_text()
        until(page, "document.querySelector('#answer').getAttribute('aria-busy') === 'false'")


def test_a_sweep_that_has_not_begun_is_waited_for_and_other_fits_show_none_of_its_runs(
    site, tmp_path
):
    folder = tmp_path / "runs"
    folder.mkdir()
    served = service(pilot(tmp_path / "reports"), runs=folder)
    with served_page(served) as url, opened((site[0], url, served), "?fit=pilot") as page:
        until(page, "document.querySelector('#sweep-fault').textContent.includes('no plan')")
        forgive_refusals(page)
        live_sweep(folder)
        until(page, f"{WORDS}.startsWith('2 of 6')")
        forgive_refusals(page)
        assert page.locator("#sweep-fault").is_hidden()
        assert "No fit of this sweep is in service" in page.locator("#sweep-fit").inner_text()
        assert "since the fit" not in page.evaluate(LEGEND)
    served.close()
    with opened(site, "?fit=pilot") as page:
        assert page.locator("#sweep").is_hidden() and page.locator("#sweep-line").is_hidden()
        assert not [a for a in page.asked if "sweep" in a]


@pytest.mark.parametrize("width", [1280, 390])
def test_finished_runs_are_fitted_by_a_button_which_says_what_is_missing(site, tmp_path, width):
    folder = tmp_path / "runs" / "tales"
    live_sweep(folder)
    served = service(pilot(tmp_path / "reports"), runs=folder, workers=SweepWorkers())
    size = {"width": width, "height": 900}
    with served_page(served) as url:
        with opened((site[0], url, served), "?fit=pilot&flops=1e13", viewport=size) as page:
            until(page, "!document.querySelector('#sweep-now').hidden")
            page.click("#fit-sweep")
            until(page, "!document.querySelector('#sweep-now-fault').hidden")
            assert "a fit needs 6" in page.locator("#sweep-now-fault").inner_text()
            forgive_refusals(page)
            finish(folder, 4)
            page.click("#fit-sweep")
            until(page, "document.querySelector('#source').value === 'fit:tales'")
            until(page, "document.querySelector('#answer').getAttribute('aria-busy') === 'false'")
            assert page.locator("#sweep-now-fault").is_hidden()
            assert "fit=tales" in page.url and page.locator("#verdict").inner_text()
            assert page.evaluate("document.documentElement.scrollWidth") <= width
            assert violations(page) == []
    served.close()


def test_where_no_tables_are_taken_there_is_no_button(site, tmp_path):
    live_sweep(folder := tmp_path / "runs")
    served = service(pilot(tmp_path / "reports"), runs=folder, mode="off")
    with served_page(served) as url, opened((site[0], url, served), "?fit=pilot") as page:
        until(page, f"{WORDS}.startsWith('2 of 6')")
        assert page.locator("#fit-sweep").is_hidden()
    served.close()
