"""The page under delayed replies: what stands on the screen belongs to the present choice."""

import contextlib

import pytest

from tests.fit.service.browser import forgive_refusals, opened, said, shown, until
from tests.fit.service.client import table

pytestmark = pytest.mark.browser


class Held:
    """Requests that match, kept back until the test answers them, in any order."""

    def __init__(self, page, pattern):
        self.page, self.pattern, self.routes = page, pattern, []
        page.route(pattern, lambda route: self.routes.append(route))

    def wait(self, number):
        """Wait for that many requests."""
        for _ in range(200):
            if len(self.routes) >= number:
                return
            self.page.wait_for_timeout(25)
        raise AssertionError(f"{len(self.routes)} of {number} requests for {self.pattern}")

    def answer(self, *order, **reply):
        """Answer requests in an order, by the service or with a reply of our own."""
        for i in order:
            route = self.routes[i]
            with contextlib.suppress(Exception):  # the page may have cancelled it
                route.fulfill(**reply) if reply else route.continue_()
            self.page.wait_for_timeout(60)

    def release(self):
        """Keep nothing back any more."""
        self.page.unroute(self.pattern)


FAILURE = {
    "status": 500,
    "content_type": "application/json",
    "body": '{"error": {"kind": "internal", "message": "a failure of long ago.", "field": null}}',
}


def settled(page):
    until(page, "!document.body.classList.contains('waiting')")
    page.wait_for_timeout(250)


def test_of_answers_that_come_in_another_order_the_last_question_s_stays(site):
    with opened(site, "?fit=pilot&flops=1e13") as page:
        held = Held(page, "**/v1/query*")
        for amount in ("2e13", "3e13", "4e13"):
            page.fill("#amount", amount)
        held.wait(3)
        assert page.locator("#answer").get_attribute("aria-busy") == "true"
        assert page.locator("#get-json").is_disabled(), "what is shown answers another question"
        held.answer(2, 0, 1)
        settled(page)
        assert shown(page) == said(site, "fit=pilot&flops=4e13")
        assert page.locator("#answer").get_attribute("aria-busy") == "false"


def test_an_answer_of_the_law_chosen_before_never_appears(site):
    with opened(site, "?fit=pilot&flops=1e13") as page:
        held = Held(page, "**/v1/query*")
        page.fill("#amount", "2e13")
        held.wait(1)
        page.select_option("#source", "law:hoffmann2022")
        held.wait(2)
        assert page.locator("#words").inner_text().strip() == ""
        assert page.locator("#facts tr").count() == 0, "nothing of the law before stays"
        held.answer(1, 0)
        settled(page)
        assert "hoffmann2022" in page.locator("#basis").inner_text()
        query = page.evaluate("location.search").removeprefix("?")
        assert "law=hoffmann2022" in query and shown(page) == said(site, query)


def test_curves_of_the_law_chosen_before_are_not_drawn(site):
    with opened(site, "?law=besiroglu2024&flops=1e22") as page:
        held = Held(page, "**/v1/curves*")
        page.select_option("#source", "fit:pilot")
        page.select_option("#source", "law:hoffmann2022")
        held.wait(2)
        assert page.locator(".charts").is_hidden() and page.locator(".tables").is_hidden()
        held.answer(1, 0)
        settled(page)
        assert page.locator("#figure-loss .legend").inner_text().count("runs") == 0
        assert page.locator("#table-runs").is_hidden()
        assert "hoffmann2022" in page.locator("#basis").inner_text()
        assert page.locator("#source").input_value() == "law:hoffmann2022"


@pytest.mark.parametrize("pattern", ["**/v1/query*", "**/v1/curves*", "**/v1/compare*"])
def test_an_error_that_comes_late_is_not_shown(site, pattern):
    with opened(site, "?fit=pilot&flops=1e13&vs=hoffmann2022") as page:
        held = Held(page, pattern)
        page.select_option("#source", "law:besiroglu2024")
        held.wait(1)
        first = len(held.routes)
        page.select_option("#source", "law:gadre2024")
        held.wait(first + 1)
        held.answer(*range(first, len(held.routes)))
        held.answer(*range(first), **FAILURE)
        held.release()
        settled(page)
        assert "long ago" not in page.locator("body").inner_text()
        assert page.locator("#fault").is_hidden()
        assert "gadre2024" in page.locator("#basis").inner_text()
        forgive_refusals(page)


def test_an_error_of_the_present_question_replaces_the_answer_before(site):
    with opened(site, "?fit=pilot&flops=1e13") as page:
        held = Held(page, "**/v1/query*")
        page.fill("#amount", "2e13")
        held.wait(1)
        held.answer(0, **FAILURE)
        settled(page)
        assert "A failure of long ago" in page.locator("#fault").inner_text()
        assert page.locator("#words").inner_text() == "No answer to this question"
        assert page.locator("#facts tr").count() == 0
        assert page.locator("#launch").is_hidden() and page.locator("#get-json").is_hidden()
        assert "your answer" not in page.locator("#figure-loss .legend").inner_text()
        forgive_refusals(page)


def test_a_comparison_with_the_law_chosen_before_does_not_appear(site):
    with opened(site, "?law=hoffmann2022&flops=1e22") as page:
        curves, rows = Held(page, "**/v1/curves*"), Held(page, "**/v1/compare*")
        page.select_option("#rival", "besiroglu2024")
        curves.wait(1)
        page.select_option("#rival", "gadre2024")
        curves.wait(2)
        curves.answer(1, 0)
        rows.wait(1)
        rows.answer(*range(len(rows.routes)))
        settled(page)
        assert "gadre2024" in page.locator("#figure-loss .legend").inner_text()
        assert "besiroglu2024" not in page.locator("#figure-loss .legend").inner_text()
        assert "besiroglu2024" not in page.locator("#comparison").inner_text()
        forgive_refusals(page)  # the laws may have no common unit


def test_a_report_that_is_late_says_nothing_about_the_law_chosen_since(site):
    with opened(site, "?fit=pilot&flops=1e13") as page:
        held = Held(page, "**/v1/report/*")
        page.click("#get-report")
        held.wait(1)
        assert page.locator("#download-status").inner_text() == "Preparing pilot.pdf …"
        page.select_option("#source", "law:hoffmann2022")
        settled(page)
        assert page.locator("#download-status").inner_text() == ""
        held.answer(0, **FAILURE)
        page.wait_for_timeout(200)
        assert page.locator("#download-status").inner_text() == ""
        forgive_refusals(page)


@pytest.mark.parametrize("reply", [{}, FAILURE])
def test_an_upload_that_was_cancelled_changes_nothing(site, tmp_path, reply):
    (tmp_path / "runs.csv").write_bytes(table())
    with opened(site, "?fit=pilot&flops=1e13") as page:
        held = Held(page, "**/v1/fits?*")
        page.get_by_role("button", name="Fit your runs").click()
        page.set_input_files("#file", tmp_path / "runs.csv")
        page.click("#send")
        held.wait(1)
        assert "Fitting runs.csv" in page.locator("#upload-status").inner_text()
        page.click("#close-upload")
        page.wait_for_timeout(50)
        held.answer(0, **reply)
        settled(page)
        assert page.locator("#source").input_value() == "fit:pilot"
        assert shown(page) == said(site, "fit=pilot&flops=1e13")
        page.get_by_role("button", name="Fit your runs").click()
        assert page.locator("#upload-status").inner_text() == ""
        assert page.locator("#upload-fault").is_hidden() and page.locator("#send").is_enabled()
        forgive_refusals(page)


def test_random_delays_leave_the_present_question_on_the_screen(site):
    """Every request is delayed by a seeded time; budgets and laws change meanwhile."""
    import random

    # Two generators: when requests come must not change what is asked.
    chance, delays = random.Random(7), random.Random(8)
    with opened(site, "?fit=pilot&flops=1e13") as page:

        def later(route):
            page.wait_for_timeout(delays.choice((0, 15, 60)))
            with contextlib.suppress(Exception):
                route.continue_()

        page.route("**/v1/*", later)
        for _ in range(3):
            for _ in range(4):
                law = chance.choice(("law:hoffmann2022", "fit:pilot", "law:gadre2024"))
                page.select_option("#source", law)
                page.wait_for_timeout(chance.choice((0, 30, 90)))
                page.fill("#amount", chance.choice(("1e20", "3e20", "2e14")))
                page.wait_for_timeout(chance.choice((0, 20)))
            until(page, "location.search.includes('flops')")
            settled(page)
            query = page.evaluate("location.search").removeprefix("?")
            assert page.locator("#source").input_value().split(":")[1] in query
            assert shown(page) == said(site, query), query
        page.unroute("**/v1/*")
        forgive_refusals(page)  # a budget may be too small for the law chosen just before
