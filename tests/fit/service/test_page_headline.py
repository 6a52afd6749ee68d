"""The head of the page, its contrast, its history and its print."""

import pytest

from fit.results import write_fit
from tests.fit.builders import make_fit
from tests.fit.service.browser import forgive_refusals, opened, said, served_page, shown, until
from tests.fit.service.client import pilot, service

pytestmark = pytest.mark.browser
CONTRAST = """
() => {
  const rgb = (text) => text.match(/[\\d.]+/g).map(Number);
  const light = (c) => {
    const [r, g, b] = c.map((v) => (v / 255 <= 0.03928 ? v / 255 / 12.92
      : ((v / 255 + 0.055) / 1.055) ** 2.4));
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const ratio = (a, b) => {
    const [x, y] = [light(a), light(b)].toSorted((p, q) => q - p);
    return (x + 0.05) / (y + 0.05);
  };
  const ground = (e) => {
    for (; e; e = e.parentElement) {
      const colour = rgb(getComputedStyle(e).backgroundColor);
      if (colour.length < 4 || colour[3] > 0) return colour.slice(0, 3);
    }
    return [255, 255, 255];
  };
  const rows = [];
  for (const e of document.querySelectorAll("input:not([type=range], [type=checkbox]), select, button:not(.quiet)")) {
    if (!e.checkVisibility()) continue;
    const style = getComputedStyle(e);
    const own = rgb(style.backgroundColor).slice(0, 3);
    rows.push([e.id || e.textContent, "border", Math.min(ratio(rgb(style.borderTopColor), own),
      ratio(rgb(style.borderTopColor), ground(e.parentElement))), 3]);
    rows.push([e.id || e.textContent, "text", ratio(rgb(style.color), own), 4.5]);
    if (e.placeholder) {
      const hint = getComputedStyle(e, "::placeholder");
      rows.push([e.id, "example", ratio(rgb(hint.color), own) * Number(hint.opacity), 4.5]);
    }
  }
  for (const e of document.querySelectorAll("h1 strong, #warning b, #verdict b, .hint, .basis, .notes li, .notes b, .facts th")) {
    if (e.checkVisibility()) rows.push([e.className, "text", ratio(rgb(getComputedStyle(e).color), ground(e)), 4.5]);
  }
  return rows;
}
"""  # noqa: E501


@pytest.fixture(scope="module")
def judged(site, tmp_path_factory):
    """The browser on a page with a fit of each verdict."""
    root = pilot(tmp_path_factory.mktemp("headline"))
    write_fit(root / "sound", make_fit(name="sound", notes=()))
    served = service(root)
    with served_page(served) as url:
        yield site[0], url, served
    served.close()


def colour(page, selector):
    return page.evaluate(f"getComputedStyle(document.querySelector('{selector}')).color")


def test_the_gravest_warning_stands_beside_the_headline_and_not_again_below(judged):
    with opened(judged, "?fit=pilot&flops=3e14&max_params=200k&unique_tokens=1M") as page:
        first = page.locator("#warning").inner_text()
        below = page.locator("#notes li").all_inner_texts()
        assert first.startswith(("serious", "warning"))
        message = first.partition(" ")[2].split(".")[0]
        assert all(message not in text for text in below)
        assert page.locator("#warning").bounding_box()["y"] < 460
        if below:
            assert f"{len(below)} more" in first
            assert page.locator("#warning a").get_attribute("href") == "#notes"


def test_the_headline_has_the_tone_of_its_verdict(judged):
    tones = {}
    for verdict, query in (
        ("trust", "fit=sound&flops=2e13"),
        ("careful", "fit=pilot&flops=2e13"),
        ("refuse", "fit=sound&flops=1e17"),
    ):
        with opened(judged, f"?{query}") as page:
            assert verdict in page.locator("#answer").get_attribute("class")
            selector = "#words" if verdict == "refuse" else "#words strong"
            tones[verdict] = colour(page, selector)
            if verdict != "trust":
                assert tones[verdict] == colour(page, "#verdict b")
            forgive_refusals(page)
    assert len(set(tones.values())) == 3


def test_the_page_says_that_it_loads_until_there_is_an_answer(judged):
    with opened(judged, "?fit=pilot&flops=1e13") as page:
        words = "getComputedStyle(document.querySelector('#words'), '::before').content"
        assert "Loading" not in page.evaluate(words)
        held = []
        page.route("**/v1/curves*", lambda route: held.append(route))
        page.select_option("#source", "fit:sound")
        until(page, "document.body.classList.contains('loading')")
        assert "Loading" in page.evaluate(words)
        held[0].continue_()
        until(page, "document.querySelector('#basis').textContent.includes('sound')")
        assert "Loading" not in page.evaluate(words)
        page.unroute("**/v1/curves*")


def test_without_a_fit_the_page_says_how_to_get_one(judged, tmp_path):
    served = service(tmp_path)
    with served_page(served) as url, opened((judged[0], url, served)) as page:
        assert "isoflop fit RUNS" in page.locator("#empty").inner_text()
        assert "besiroglu2024" in page.locator("#basis").inner_text()
        page.click("#empty-upload")
        assert page.locator("#upload").is_visible()
    served.close()
    with opened(judged, "?fit=pilot&flops=1e13") as page:
        assert page.locator("#empty").is_hidden()


def test_the_back_button_asks_the_question_before_and_a_burst_is_one_step(judged):
    with opened(judged, "?fit=pilot&flops=1e13") as page:
        first = shown(page)
        for amount in ("2e13", "3e13", "4e13"):
            page.fill("#amount", amount)
        until(page, "!document.body.classList.contains('waiting')")
        page.wait_for_timeout(1100)
        page.select_option("#source", "fit:sound")
        until(page, "document.querySelector('#basis').textContent.includes('sound')")
        page.go_back()
        until(page, "document.querySelector('#basis').textContent.includes('pilot')")
        assert page.locator("#amount").input_value() == "4e13"
        assert shown(page) == said(judged, "fit=pilot&flops=4e13")
        page.go_back()
        until(page, "document.querySelector('#amount').value === '1e13'")
        until(page, "!document.body.classList.contains('waiting')")
        assert shown(page) == first
        page.go_forward()
        until(page, "document.querySelector('#amount').value === '4e13'")
        until(page, "!document.body.classList.contains('waiting')")
        assert shown(page) == said(judged, "fit=pilot&flops=4e13")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_controls_and_words_stand_out_from_their_ground(judged, scheme):
    with opened(judged, "?fit=pilot&flops=3e14", color_scheme=scheme) as page:
        page.click("#limits summary")
        page.select_option("#kind", "dollars")
        rows = page.evaluate(f"({CONTRAST})()")
        page.click("#open-upload")
        rows += page.evaluate(f"({CONTRAST})()")
        assert len(rows) > 60
        weak = [row for row in rows if row[2] < row[3]]
        assert weak == []
        forgive_refusals(page)


def test_a_print_is_black_on_white_and_has_no_controls(judged):
    with opened(judged, "?fit=pilot&flops=1e13", color_scheme="dark") as page:
        dark = page.evaluate("getComputedStyle(document.body).backgroundColor")
        page.emulate_media(media="print")
        page.wait_for_timeout(200)
        assert page.evaluate("getComputedStyle(document.body).backgroundColor") != dark
        for name in ("#ask", "#source", "#open-upload", "#rival", "#get-report"):
            assert page.locator(name).is_hidden(), name
        for name in ("#words", "#verdict", "#facts", "#figure-loss svg.chart"):
            assert page.locator(name).first.is_visible(), name
        assert colour(page, "#figure-loss svg.chart") == "rgb(0, 0, 0)"
        assert page.pdf(format="A4").startswith(b"%PDF")
