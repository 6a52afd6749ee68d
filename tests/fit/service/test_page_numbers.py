"""Every number on the page: missing, negative, huge, open-ended, without interval."""

import copy
import json

import httpx
import pytest

from tests.fit.service.browser import forgive_refusals, opened, until

pytestmark = pytest.mark.browser
QUESTION = "fit=pilot&flops=1e14&max_params=200k&serve_tokens=1B&regret=true&device=a100&price=2"
WRONG = ("NaN", "undefined", "null", "Infinity", "[object")


def leaves(document, path=()):
    """Paths of the numbers of a document, of each list those of its first and last entries."""
    if isinstance(document, dict):
        return [p for k, v in document.items() for p in leaves(v, (*path, k))]
    if isinstance(document, list):
        ends = {0, len(document) - 1} if document else ()
        return [p for i in sorted(ends) for p in leaves(document[i], (*path, i))]
    number = isinstance(document, int | float) and not isinstance(document, bool)
    return [path] if number else []


def changed(document, path, value):
    """A copy of a document with another value at a path."""
    document = copy.deepcopy(document)
    place = document
    for step in path[:-1]:
        place = place[step]
    place[path[-1]] = value
    return document


def mutations(document, paths):
    """Documents without one of their numbers, and with all of them out of bounds."""
    for path in paths:
        yield path, changed(document, path, None)
    for value in (None, -1.5, 0, 1e300, 1e-300):
        all_of_it = document
        for path in paths:
            all_of_it = changed(all_of_it, path, value)
        yield value, all_of_it


def text_of(page):
    """What stands on the page, without the command, in which null is a value."""
    return page.locator("main").inner_text().replace(page.locator("#command").inner_text(), "")


class Answers:
    """The page on an answer of ours, shown anew as often as wished."""

    def __init__(self, site, page):
        self.page, self.count = page, 0
        self.document = httpx.get(f"{site[1]}v1/query?{QUESTION}").json()
        self.reply = self.document
        page.route("**/v1/query*", lambda route: route.fulfill(json=self.reply))

    def show(self, **changes):
        """Show the answer with some numbers changed, each named by its path."""
        self.reply = self.document
        for path, value in changes.items():
            steps = [int(s) if s.isdigit() else s for s in path.split("__")]
            self.reply = changed(self.reply, steps, value)
        return self.again()

    def again(self):
        self.count += 1
        self.page.fill("#amount", f"{self.count}.5e13")
        until(self.page, f"location.search.includes('flops={self.count}.5e13')")
        until(self.page, "!document.body.classList.contains('waiting')")
        return text_of(self.page)


def number(value, low=None, high=None):
    return {"value": value, "low": low, "high": high}


def test_a_size_that_no_budget_buys_is_impossible_and_not_free(site):
    with opened(site, f"?{QUESTION}") as page:
        answers = Answers(site, page)
        text = answers.show(regret__4__loss_up=number(None), regret__4__compute_up=number(None))
        row = page.locator("#binding tr", has_text="×2.00").inner_text()
        assert row.count("impossible") == 2 and "\t0\t" not in row, text


def test_a_gain_that_is_not_determined_is_no_gain_of_zero(site):
    with opened(site, f"?{QUESTION}") as page:
        answers = Answers(site, page)
        binds = next(i for i, c in enumerate(answers.document["constraints"]) if c["worth"])
        answers.show(**{f"constraints__{binds}__worth__doubled__loss": number(None)})
        assert "loss not determined" in page.locator("#binding").inner_text()
        assert "loss 0" not in page.locator("#binding").inner_text()


def test_the_ends_of_an_interval_change_their_sign_with_the_value(site):
    with opened(site, f"?{QUESTION}") as page:
        answers = Answers(site, page)
        binds = next(i for i, c in enumerate(answers.document["constraints"]) if c["worth"])
        gain = f"constraints__{binds}__worth__doubled__loss"
        for low, high, ends in (
            (0.0394, 0.0919, "[−0.0919, −0.0394]"),
            (-0.0394, 0.0919, "[−0.0919, +0.0394]"),
            (0.0, 0.0919, "[−0.0919, 0]"),
            (0.0394, None, "[−∞, −0.0394]"),
            (None, 0.0919, "[−0.0919, ∞]"),
        ):
            answers.show(**{gain: number(0.0602, low, high)})
            assert f"loss −0.0602 {ends}" in page.locator("#binding").inner_text()


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"loss": number(2.1, None, 2.4)}, "[−∞, 2.4000]"),
        ({"loss": number(2.1, 2.0, None)}, "[2.0000, ∞]"),
        ({"loss": number(2.1)}, "this fit has none here"),
        ({"loss": number(None)}, "loss not determined"),
        ({"params": number(None)}, "Train not determined"),
        ({"loss": number(3e-6)}, "3e-6"),
        ({"cost": None}, "Parameters N"),
        ({"cost__mfu": None, "cost__dollars": number(None)}, "$not determined"),
        ({"cost__dollars": number(0.0042, 0.0031, 0.0055)}, "$0.00420 [0.00310, 0.00550]"),
        ({"cost__dollars": number(1234567.0)}, "$1,234,567"),
        ({"flops": number(None)}, "not determined FLOP"),
        ({"params": number(1e400)}, "not determined"),
        ({"params": number(-3.0)}, "-3.00"),
    ],
)
def test_what_a_number_is_not_is_said(site, changes, words):
    with opened(site, f"?{QUESTION}") as page:
        text = Answers(site, page).show(
            **{k: json.loads(json.dumps(v).replace("Infinity", "null")) for k, v in changes.items()}
        )
        assert words in " ".join(text.split()), text


def test_no_number_of_an_answer_can_break_the_page_or_be_taken_for_another(site):
    with opened(site, f"?{QUESTION}") as page:
        answers = Answers(site, page)
        paths = leaves(answers.document)
        assert len(paths) > 60
        for case, reply in mutations(answers.document, paths):
            answers.reply = reply
            text = answers.again()
            assert not any(word in text for word in WRONG), (case, text)
            assert page.locator("#fault").is_hidden(), case
        print(f"{len(paths)} numbers, {answers.count} answers")


def test_no_number_of_the_curves_can_break_the_charts(site):
    document = httpx.get(f"{site[1]}v1/curves?fit=pilot").json()
    reply = {}
    with opened(site, "?law=hoffmann2022&flops=1e22") as page:
        page.route("**/v1/curves*", lambda route: route.fulfill(json=reply["document"]))
        paths = [p for p in leaves(document) if p[0] not in ("flops",)]
        assert len(paths) > 30
        for case, reply["document"] in mutations(document, paths):
            page.select_option("#source", "law:hoffmann2022")
            page.select_option("#source", "fit:pilot")
            until(page, "!document.body.classList.contains('waiting')")
            text = text_of(page)
            assert not any(word in text for word in WRONG), case
            forgive_refusals(page)  # the changed range asks for a budget out of reach
            assert not page.faults, (case, page.faults)
        print(f"{len(paths)} numbers")


def test_what_the_service_refuses_is_said_in_the_words_of_the_page(site):
    with opened(site, "?fit=pilot&dollars=100&price=2") as page:
        assert "without “Device”; give both" in page.locator("#field-device-fault").inner_text()
        page.goto(f"{site[1]}?fit=pilot&flops=1e13&params=1e5&max_params=1e6")
        page.wait_for_selector("body[data-ready]")
        said = page.locator("#field-max_params-fault").inner_text()
        assert (
            said
            == "“Parameters, fixed” fixes what “Parameters at most” limits; leave one of them out."
        )
        page.goto(f"{site[1]}?fit=pilot&flops=1e13&flops=2e13&force=true")
        page.wait_for_selector("body[data-ready]")
        assert "1e13 and 2e13" in page.locator("#amount-fault").inner_text()
        page.goto(f"{site[1]}?fit=pilot&flops=1e13&budget=3")
        page.wait_for_selector("body[data-ready]")
        assert "Unknown field 'budget'" in page.locator("#fault").inner_text()
        page.click("#clear")
        until(page, "document.querySelector('#fault').hidden")
        for wrong in ("--", "`", "force"):
            assert wrong not in page.locator("main").inner_text()
        forgive_refusals(page)


def test_a_field_without_a_label_of_the_page_is_offered_in_the_words_of_the_service(site):
    description = httpx.get(f"{site[1]}openapi.json").json()
    fields = description["paths"]["/v1/query"]["get"]["parameters"]
    fields.append({"name": "max_depth", "description": "Layers at most.", "schema": {}})
    flag = {"type": "string", "enum": ["true", "false"]}
    fields.append({"name": "sparse", "description": "Experts, too.", "schema": flag})
    chromium, url, _ = site
    page = chromium.new_page()
    page.route("**/openapi.json", lambda route: route.fulfill(json=description))
    page.goto(f"{url}?fit=pilot&flops=1e13&max_depth=4")
    page.wait_for_selector("body[data-ready]")
    assert page.get_by_label("Layers at most").input_value() == "4"
    assert page.get_by_label("Experts, too").is_visible()
    page.close()


@pytest.mark.parametrize("name", ["nope", "a b&c", "x" * 300, "../secret", "<b>bold</b>"])
def test_an_unknown_fit_is_said_to_be_unknown_and_others_are_offered(site, name):
    from urllib.parse import quote

    with opened(site, f"?fit={quote(name)}") as page:
        assert page.locator("#fault").is_visible()
        assert page.locator(".charts").is_hidden() and page.locator("#ask").is_hidden()
        page.locator("#others a", has_text="pilot").click()
        page.wait_for_selector("#facts tr")
        assert "by pilot" in page.locator("#basis").inner_text()
        forgive_refusals(page)


@pytest.mark.parametrize("query", ["law=nope", "fit=pilot&law=hoffmann2022"])
def test_an_unknown_law_or_two_choices_are_refused_in_words(site, query):
    with opened(site, f"?{query}&flops=1e13") as page:
        said = page.locator("#fault").inner_text()
        assert "no law 'nope'" in said or "fit or law, not both" in said
        assert page.locator("#others a", has_text="pilot").is_visible()
        forgive_refusals(page)
