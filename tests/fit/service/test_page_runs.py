"""The table of runs on the page: sorted, filtered, unticked to see N* move; a run's curve."""

import dataclasses

import httpx
import pytest

from fit.data.records import write_record
from fit.fitting import FitOptions, fit_table
from fit.results import write_fit
from tests.fit.comparison.builders import sweep_table
from tests.fit.data.builders import record
from tests.fit.service.browser import opened, served_page, until
from tests.fit.service.client import pilot, service
from tests.fit.service.test_page_axe import violations

pytestmark = pytest.mark.browser
ROWS = "#runs-table tbody tr"


@pytest.fixture(scope="module")
def swept(site, tmp_path_factory):
    """The browser on a page with a fit of 36 runs."""
    root = pilot(tmp_path_factory.mktemp("swept"))
    runs = tmp_path_factory.mktemp("runs")
    for name in ("r1", "r2", "r4"):
        write_record(runs / name, record(run=name))
    lines = [f"{1e6 * (i + 1)},{2 + 1 / (i + 1)},0.01,1" for i in range(500)]
    for name in ("r1", "r2"):
        (runs / name / "curve.csv").write_text("\n".join(["tokens,loss,lr,grad_norm", *lines]))
    fit = fit_table(sweep_table(seed=3), FitOptions(resamples=0))
    write_fit(root / "swept", dataclasses.replace(fit, source={"path": str(runs)}))
    served = service(root)
    with served_page(served) as url:
        yield site[0], url, served
    served.close()


def column(page, place):
    return page.evaluate(
        f"[...document.querySelectorAll('{ROWS}')].map(r => r.cells[{place}].textContent)"
    )


def test_runs_are_sorted_by_any_column_and_filtered_by_name_and_number(swept):
    with opened(swept, "?fit=swept&flops=1e20") as page:
        page.click("#table-runs summary")
        assert len(column(page, 1)) == 36
        page.click("#runs-table [data-sort=loss] button")
        losses = [float(v) for v in column(page, 5)]
        assert losses == sorted(losses)
        page.click("#runs-table [data-sort=loss] button")
        assert [float(v) for v in column(page, 5)] == losses[::-1]
        assert page.locator("[data-sort=loss]").get_attribute("aria-sort") == "descending"
        page.click("#runs-table [data-sort=influence] button")
        shifts = [v for v in column(page, 7) if v != "–"]
        sizes = [abs(float(v.replace("\N{MINUS SIGN}", "-").strip("+%"))) for v in shifts]
        assert sizes == sorted(sizes, reverse=True) and len(sizes) > 1
        page.fill("#filter-runs", "params>=100M loss<2.6")
        runs = httpx.get(f"{swept[1]}v1/curves?fit=swept").json()["runs"]
        kept = {r["run"] for r in runs if r["params"] >= 1e8 and r["loss"] < 2.6}
        assert set(column(page, 1)) == kept and 0 < len(kept) < 36
        page.fill("#filter-runs", "r35")
        assert column(page, 1) == ["r35"]
        assert "1 of 36" in page.locator("#runs-count").inner_text()


def test_a_run_that_is_unticked_moves_the_best_size_as_the_service_says(swept):
    with opened(swept, "?fit=swept&flops=1e20") as page:
        page.click("#table-runs summary")
        page.locator(f"{ROWS} input[data-row='5']").uncheck()
        until(page, "document.querySelector('#without').textContent.includes('becomes')")
        said = httpx.get(f"{swept[1]}v1/without?fit=swept&row=5&flops=1e20").json()
        moved = page.locator("#without data[data-name=left-params]").get_attribute("value")
        assert float(moved) == said["left"]["params"] != said["all"]["params"]
        assert "without 1 run" in page.locator("#figure-params .legend").inner_text()
        page.locator(f"{ROWS} input[data-row='7']").uncheck()
        until(page, "document.querySelector('#without').textContent.includes('Without 2 of 36')")
        page.fill("#filter-runs", "r7")
        assert not page.locator(f"{ROWS} input[data-row='7']").is_checked()
        page.click("#tick-all")
        until(page, "document.querySelector('#without').textContent === ''")
        assert "without" not in page.locator("#figure-params .legend").inner_text()


def test_a_row_that_is_pointed_at_or_reached_by_key_shows_its_training_curve_once_fetched(swept):
    with opened(swept, "?fit=swept&flops=1e20") as page:
        page.click("#table-runs summary")
        asked = lambda: [a for a in page.asked if "v1/training" in a]  # noqa: E731
        name = "document.querySelector('#training-run').textContent"
        hidden = "document.querySelector('#figure-training').hidden"
        page.fill("#filter-runs", "r1")
        row = page.locator(ROWS).filter(has_text="r1").first
        assert page.evaluate(hidden) and asked() == []
        row.hover()
        until(page, f"!{hidden} && {name} === 'r1'")
        assert page.locator("#figure-training svg.chart path").count() >= 1
        assert "3.0000 at 1.00M tokens" in page.locator("#training-words").inner_text()
        page.mouse.move(0, 0)
        page.fill("#filter-runs", "")
        for run, words in (("2", "r2"), ("4", None), ("1", "r1"), ("2", "r2")):
            page.locator(f"{ROWS} input[data-row='{run}']").focus()
            until(page, hidden if words is None else f"!{hidden} && {name} === '{words}'")
        assert sorted(a.rpartition("row=")[2] for a in asked()) == ["1", "2", "4"]
        assert violations(page) == []
