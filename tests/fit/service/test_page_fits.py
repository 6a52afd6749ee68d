"""The menu of all fits: two hundred at once, found by words; and laws compared in one count."""

import time

import pytest

from fit.results import write_fit
from tests.fit.builders import make_fit
from tests.fit.comparison.test_compare_units import REFERENCE, counted_6nd
from tests.fit.service.browser import opened, served_page, until
from tests.fit.service.client import pilot, service
from tests.fit.service.test_page_axe import violations

pytestmark = pytest.mark.browser
ROWS = "#fits-table tbody tr"
SECONDS = 1.0


@pytest.fixture(scope="module")
def many(site, tmp_path_factory):
    """The browser on a service of more than two hundred fits."""
    root = pilot(tmp_path_factory.mktemp("many"))
    for i in range(200):
        write_fit(root / f"sweep-{i:03d}", make_fit(name=f"sweep-{i:03d}"))
    write_fit(root / "reference", REFERENCE)
    write_fit(root / "other", counted_6nd().fit)
    served = service(root)
    served.registry.readable()  # as `serve` does when it starts
    with served_page(served) as url:
        yield site[0], url, served
    served.close()


def test_two_hundred_fits_are_listed_and_searched_within_a_second(many):
    with opened(many, "?fit=pilot&flops=1e13") as page:
        page.click("#open-fits")  # the module is fetched once
        page.wait_for_selector(ROWS)
        page.click("#close-fits")
        taken = []
        while not taken or (taken[-1] >= SECONDS and len(taken) < 5):  # others may work here
            begun = time.perf_counter()
            page.click("#open-fits")
            page.wait_for_selector(ROWS)
            page.fill("#find-fit", "careful 19")
            until(page, f"document.querySelectorAll('{ROWS}').length < 30")
            taken.append(time.perf_counter() - begun)
            if taken[-1] >= SECONDS:
                page.click("#close-fits")
        print(f"204 fits listed and searched in {1e3 * min(taken):.0f} ms")
        assert min(taken) < SECONDS
        names = page.locator("#fits-table .name button").all_inner_texts()
        assert {"sweep-019", "sweep-119", "sweep-190"} <= set(names) and len(names) < 30
        page.fill("#find-fit", "published hoffmann")
        assert page.locator(ROWS).count() == 1
        page.fill("#find-fit", "refuse")
        assert page.locator("#fits-table .name button").all_inner_texts() == ["blind"]
        assert "refused" in page.locator(ROWS).inner_text()
        page.fill("#find-fit", "sweep-042")
        page.keyboard.press("Enter")
        until(page, "location.search.includes('fit=sweep-042')")
        until(page, "document.querySelector('#basis').textContent.includes('sweep-042')")
        assert page.locator("#fits").is_hidden()
        page.go_back()
        until(page, "location.search.includes('fit=pilot')")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_menu_and_the_upload_have_no_serious_violation(many, scheme):
    from tests.fit.service.test_page_upload import READ, drop, foreign

    with opened(many, "?fit=pilot&flops=1e13", color_scheme=scheme) as page:
        page.click("#open-fits")
        page.wait_for_selector(ROWS)
        assert violations(page) == []
        page.click("#close-fits")
        drop(page, "runs.csv", foreign())
        until(page, READ)
        assert violations(page) == []


def test_fits_in_two_counts_of_flops_are_compared_in_one(many):
    with opened(many, "?fit=reference&flops=1e13&vs=other") as page:
        page.wait_for_selector("#comparison table")
        assert "×1.00" in page.locator("#comparison tbody").inner_text()
        assert "counted alike" in page.locator("#comparison .notes").inner_text()
        assert page.get_by_role("button", name="Compare anyway").count() == 0
