"""Each verdict on the page: first of all, and nothing of what is refused."""

import json

import pytest

from fit.allocation.scaling_law import further_budget
from fit.results import write_fit
from tests.fit.builders import make_fit
from tests.fit.service.browser import forgive_refusals, opened, said, served_page, shown, until
from tests.fit.service.client import pilot, service

pytestmark = pytest.mark.browser
WIDTHS = {"desktop": 1280, "phone": 390}
CASES = {
    "trust": "fit=sound&flops=2e13",
    "careful": "fit=pilot&flops=2e13",
    "careful-published": "law=besiroglu2024&flops=1e22",
    "refuse-fit": "fit=blind&flops=2e13",
    "refuse-reach": "fit=sound&flops=1e17",
}


@pytest.fixture(scope="module")
def judged(site, tmp_path_factory):
    """The browser on a page with a fit of each verdict."""
    root = pilot(tmp_path_factory.mktemp("judged"))
    write_fit(root / "sound", make_fit(name="sound", notes=()))
    served = service(root)
    with served_page(served) as url:
        yield site[0], url, served
    served.close()


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("case", CASES)
def test_the_verdict_stands_first_on_every_screen(judged, tmp_path, case, width):
    size = {"width": WIDTHS[width], "height": 900}
    with opened(judged, f"?{CASES[case]}", viewport=size) as page:
        page.screenshot(path=tmp_path / f"{case}-{width}.png", full_page=True)
        verdict = case.partition("-")[0]
        assert page.locator("#answer > :visible").first.get_attribute("id") == "verdict"
        badge, sentence = page.locator("#verdict b"), page.locator("#verdict span")
        assert badge.inner_text().split()[-1] == verdict
        assert sentence.inner_text()[0].isupper() and len(sentence.inner_text()) > 20
        assert page.locator("#verdict").bounding_box()["y"] < 200
        assert page.evaluate("document.documentElement.scrollWidth") <= WIDTHS[width]
        if verdict == "refuse":
            check_nothing_is_shown(page)
            assert page.locator(".charts").is_hidden() == (case == "refuse-fit")
        else:
            assert shown(page) == said(judged, CASES[case])
            assert "your answer" in page.locator("#figure-loss .legend").inner_text()
        forgive_refusals(page)
        print(tmp_path / f"{case}-{width}.png")


def check_nothing_is_shown(page):
    """No number, no mark, no command, no export of what is refused."""
    assert page.locator("#words").inner_text() == "No answer to this question"
    assert page.locator("#facts tr").count() == 0 and page.locator("#basis").inner_text() == ""
    for name in ("#launch", "#get-config", "#get-json", "#binding", "#fault"):
        assert page.locator(name).is_hidden(), name
    assert "your answer" not in page.locator("main").inner_text()
    assert page.locator("#figure-loss svg circle[r='5.5']").count() == 0
    for wrong in ("force", "--", "`", "\N{CHECK MARK}"):
        assert wrong not in page.locator("main").inner_text()


def test_coming_back_within_reach_brings_the_answer_back(judged):
    with opened(judged, "?fit=sound&flops=1e17") as page:
        check_nothing_is_shown(page)
        page.fill("#amount", "3e13")
        until(page, "document.querySelector('#verdict').classList.contains('trust')")
        assert shown(page) == said(judged, "fit=sound&flops=3e13")
        page.fill("#amount", "1e17")
        until(page, "document.querySelector('#verdict').classList.contains('refuse')")
        check_nothing_is_shown(page)
        forgive_refusals(page)


def test_an_address_that_insists_is_not_obeyed(judged):
    with opened(judged, "?fit=blind&flops=1e13&force=true&vs=sound") as page:
        check_nothing_is_shown(page)
        assert page.locator("#table-frontier").is_hidden()
        assert page.get_by_role("button", name="Compare anyway").count() == 0
        forgive_refusals(page)


def test_a_document_that_is_refused_is_not_shown_whatever_it_holds(judged):
    import httpx

    document = httpx.get(f"{judged[1]}v1/query?fit=sound&flops=1e13").json()
    assert document["config"] and document["verdict"] == "trust"
    refused = {**document, "verdict": "refuse", "verdict_reason": "It must not be so, for a test."}
    with opened(judged, "?fit=pilot&flops=1e13") as page:
        page.route("**/v1/query*", lambda route: route.fulfill(body=json.dumps(refused)))
        page.select_option("#source", "fit:sound")
        until(page, "document.querySelector('#verdict').classList.contains('refuse')")
        check_nothing_is_shown(page)
        until(page, "document.querySelector('#live').textContent.startsWith('refuse: It must not')")


def test_a_refused_law_is_not_drawn_beside_another(judged):
    with opened(judged, "?fit=sound&flops=1e13") as page:
        page.goto(f"{judged[1]}?fit=sound&flops=1e13&vs=blind")
        page.wait_for_selector("body[data-ready]")
        until(page, "document.querySelector('#comparison').textContent.includes('not identified')")
        assert "blind" not in page.locator("#figure-loss .legend").inner_text()
        assert page.get_by_role("button", name="Compare anyway").count() == 0
        forgive_refusals(page)


def test_a_refusal_is_announced_in_the_place_of_the_answer_before(judged):
    said_aloud = "document.querySelector('#live').textContent"
    with opened(judged, "?fit=sound&flops=2e13") as page:
        until(page, f"{said_aloud}.includes('Train')")
        page.fill("#amount", "1e30")
        until(page, f"{said_aloud}.startsWith('refuse: the budget lies')")
        page.fill("#amount", "many")
        until(page, f"{said_aloud}.includes('many')")
        page.fill("#amount", "1e13")
        until(page, f"{said_aloud}.includes('Train')")
        forgive_refusals(page)


def test_the_page_asks_what_the_report_asks_and_its_report_what_the_page_asks(judged):
    source = judged[2].registry.get("sound").source
    with opened(judged, "?fit=sound") as page:
        assert float(page.locator("#amount").input_value()) == further_budget(source)
        page.fill("#amount", "2e13")
        page.route("**/v1/report/*", lambda route: route.fulfill(body="%PDF"))
        with page.expect_request("**/v1/report/*") as caught:
            page.click("#get-report")
        assert caught.value.url.endswith("v1/report/sound.pdf?flops=2e13")
