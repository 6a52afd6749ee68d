"""Questions side by side on the page, and scenarios that are saved by name."""

from urllib.parse import urlencode

import httpx
import pytest

from tests.fit.service.browser import forgive_refusals, opened, said, shown, until

pytestmark = pytest.mark.browser
ROWS = "#beside-table tbody tr"


def row(page, place):
    """The numbers of one row, exactly."""
    names = ("params", "tokens", "tokens_per_param", "loss")
    cells = page.locator(ROWS).nth(place)
    return {n: float(cells.locator(f"data[data-name={n}]").get_attribute("value")) for n in names}


def rows_are(page, count):
    until(page, f"document.querySelectorAll('{ROWS}').length === {count}")


def test_several_budgets_stand_side_by_side_with_the_limits_of_the_question(site):
    with opened(site, "?fit=pilot&flops=1e13&max_params=100k") as page:
        page.fill("#more-budgets", "3e13 1e14, 3e14")
        page.keyboard.press("Enter")
        rows_are(page, 4)
        for place, flops in enumerate(("1e13", "3e13", "1e14", "3e14")):
            assert row(page, place) == said(site, f"fit=pilot&flops={flops}&max_params=100k")
        link = page.evaluate("location.href")
        page.goto(link)  # sent to somebody else
        page.wait_for_selector("body[data-ready]")
        rows_are(page, 4)
        assert row(page, 3) == said(site, "fit=pilot&flops=3e14&max_params=100k")
        page.locator(ROWS).nth(1).get_by_role("button").click()
        rows_are(page, 3)
        assert row(page, 1) == said(site, "fit=pilot&flops=1e14&max_params=100k")


def test_a_question_that_is_kept_stands_beside_the_next_of_another_law(site):
    with opened(site, "?fit=pilot&flops=1e13") as page:
        page.click("#keep")
        rows_are(page, 2)
        page.select_option("#source", "law:hoffmann2022")
        until(page, "document.querySelector('#basis').textContent.includes('hoffmann2022')")
        until(
            page, "document.querySelector('#beside-table').textContent.includes('(hoffmann2022)')"
        )
        assert row(page, 1) == said(site, "fit=pilot&flops=1e13")
        page.fill("#amount", "2e21")
        until(page, "document.querySelector('#beside-table').textContent.includes('2e21')")
        assert row(page, 0) == said(site, "law=hoffmann2022&flops=2e21")


def test_what_has_no_answer_says_why_in_its_row_and_is_not_insisted_on(site):
    with opened(site, "?fit=pilot&flops=1e13") as page:
        page.fill("#more-budgets", "1e17; lots")
        page.keyboard.press("Enter")
        rows_are(page, 3)
        texts = page.locator(ROWS).all_inner_texts()
        assert "refuse" in texts[1] and "lots" in texts[2]
        assert page.locator(ROWS).nth(1).locator("data").count() == 0
        page.goto(
            f"{site[1]}?fit=pilot&flops=1e13&beside=fit%3Dblind%26flops%3D1e13%26force%3Dtrue"
        )
        page.wait_for_selector("body[data-ready]")
        rows_are(page, 2)
        assert page.locator(ROWS).nth(1).locator("data").count() == 0
        forgive_refusals(page)


def test_no_more_than_eight_questions_stand_beside_one(site):
    with opened(site, "?fit=pilot&flops=1e13") as page:
        page.fill("#more-budgets", " ".join(f"{i}e13" for i in range(1, 10)))
        page.keyboard.press("Enter")
        until(page, "!document.querySelector('#beside-fault').hidden")
        assert page.locator(ROWS).count() == 0


def test_a_scenario_is_saved_by_name_opened_again_and_deleted(site):
    with opened(site, "?fit=pilot&flops=1e13&max_params=50k") as page:
        page.fill("#more-budgets", "1e14")
        page.keyboard.press("Enter")
        rows_are(page, 2)
        page.fill("#scenario-name", "small models")
        page.keyboard.press("Enter")
        until(page, "document.querySelector('#scenario').value === 'small models'")
        page.goto(f"{site[1]}?law=hoffmann2022&flops=1e21")
        page.wait_for_selector("body[data-ready]")
        page.select_option("#scenario", "small models")
        until(page, "document.querySelector('#basis').textContent.includes('pilot')")
        rows_are(page, 2)
        assert row(page, 1) == said(site, "fit=pilot&flops=1e14&max_params=50k")
        assert page.locator("#field-max_params").input_value() == "50k"
        page.go_back()
        until(page, "document.querySelector('#basis').textContent.includes('hoffmann2022')")
        page.select_option("#scenario", "small models")
        page.click("#delete-scenario")
        page.reload()
        page.wait_for_selector("body[data-ready]")
        assert page.locator("#scenario option").all_inner_texts() == ["none yet"]


@pytest.mark.parametrize("budget", ["8 h100 for 3 days", "5k$ on h100", "1 ZFLOP"])
def test_a_budget_in_words_is_asked_as_written_moves_the_slider_and_stands_beside(site, budget):
    question = {"law": "besiroglu2024", "flops": budget}
    flops = httpx.get(f"{site[1]}v1/query", params=question).json()["flops"]["value"]
    with opened(site, "?law=besiroglu2024&flops=1e20") as page:
        page.fill("#amount", budget)
        until(page, "!document.body.classList.contains('waiting')")
        assert shown(page) == said(site, urlencode(question))
        slider = page.locator("#slider").get_attribute("aria-valuetext")
        assert float(slider.split()[0]) == pytest.approx(flops, rel=0.006)
        page.fill("#more-budgets", f"2e20 3e20; {budget}")
        page.keyboard.press("Enter")
        rows_are(page, 4)
        assert row(page, 3) == shown(page)
        assert page.locator(ROWS).nth(3).locator("a").inner_text() == f"{budget} (besiroglu2024)"
