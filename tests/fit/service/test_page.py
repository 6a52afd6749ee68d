"""The page: nothing from outside and nothing inline; in a browser it says what the service says."""

import json
import re

import pytest

from fit.service.static import PAGE, read_page
from tests.fit.service.browser import opened, said, served_page, shown, until
from tests.fit.service.client import ask, pilot, service, table

OWN = [p for p in sorted(PAGE.rglob("*")) if p.is_file() and "vendor" not in p.parts]
MOST_BYTES = 250_000
"""Of the first load, as it is sent."""


def test_the_page_asks_nobody_but_its_own_service():
    for path in OWN:
        result = re.findall(r"(?:https?:)?//[\w.-]+\.\w+", path.read_text())
        assert set(result) <= {"http://www.w3.org"}, path.name


def test_nothing_on_the_page_is_inline():
    text = (PAGE / "index.html").read_text() + (PAGE / "embed.html").read_text()
    assert not re.search(r"<style|\sstyle=|\son\w+=|<script(?![^>]*\ssrc=)|javascript:", text)
    for path in OWN:
        assert not re.search(
            r"innerHTML|insertAdjacentHTML|eval\(|document\.write", path.read_text()
        )


def test_every_file_that_the_page_names_is_there_and_the_first_load_is_small():
    text = (PAGE / "index.html").read_text()
    named = {n.removeprefix("page/") for n in re.findall(r'(?:src|href)="(page/[^"]+)"', text)}
    for module in PAGE.glob("*.js"):
        if module.name == "embed.js":
            continue  # a page of its own
        named |= {n for n in re.findall(r'from "\./([^"]+)"', module.read_text())}
    later = set(re.findall(r'import\("\./([^"]+)"\)', (PAGE / "app.js").read_text()))
    files = read_page()
    assert named | later <= files.keys() and len(later) > 1
    assert not named & later, "dialogs are fetched when they are opened"
    sent = [files[n].zipped or files[n].plain for n in named | {"index.html"}]
    assert sum(map(len, sent)) < 0.9 * MOST_BYTES
    assert {"vendor/LICENSE.d3.txt", "vendor/LICENSE.plot.txt"} <= files.keys()


def test_every_page_has_the_head_of_the_first_but_for_its_title_and_script():
    files = read_page()
    heads = [files[n].plain.decode().partition("</head>")[0] for n in ("index.html", "embed.html")]
    first, second = (set(head.splitlines()) for head in heads)
    assert all(head.startswith("<!doctype html>") for head in heads)
    assert {line for line in first - second if "stylesheet" in line or "vendor" in line} == set()
    assert second - first == {
        "<title>isoflop: a chart</title>",
        '<script type="module" src="page/embed.js"></script>',
    }


def test_a_file_that_the_reader_has_is_not_sent_again(tmp_path):
    served = service(pilot(tmp_path))
    first = ask(served, "/page/app.js")
    assert first.headers["content-type"].startswith("text/javascript")
    again = ask(served, "/page/app.js", headers={"if-none-match": first.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")


@pytest.mark.browser
def test_the_page_shows_the_numbers_of_the_service(site):
    questions = [f"fit=pilot&flops={c:.3g}" for c in (1e12, 3e12, 1e13, 2.5e13, 1e14, 7e14)]
    questions += [f"fit=pilot&flops={m}e13" for m in (2, 4, 5, 6, 7, 8, 9)]
    questions += [f"law={law}&flops=1e21" for law in ("hoffmann2022", "besiroglu2024", "gadre2024")]
    questions += ["fit=pilot&flops=1e13&unique_tokens=1M"]
    questions += ["law=besiroglu2024&flops=1e22&memory=8GB&serve_tokens=1T"]
    questions += ["fit=pilot&hours=0.003&device=a100&mfu=10%25"]
    questions += ["law=hoffmann2022&dollars=250k&price=2.5&device=h100"]
    assert len(questions) == 20
    for query in questions:
        with opened(site, f"?{query}") as page:
            assert shown(page) == said(site, query), query


@pytest.mark.browser
def test_the_slider_changes_the_answer_and_the_address(site):
    with opened(site, "?fit=pilot&flops=1e13") as page:
        before, words = shown(page), page.locator("#words").inner_text()
        page.locator("#slider").press("ArrowRight")
        until(page, f"document.querySelector('#words').innerText !== {json.dumps(words)}")
        for _ in range(40):
            page.locator("#slider").press("ArrowRight")
        until(page, "location.search.includes('flops=') && !location.search.includes('flops=1e13')")
        page.wait_for_timeout(300)
        assert shown(page)["params"] > before["params"]
        query = page.evaluate("location.search").removeprefix("?")
        assert shown(page) == said(site, query)
        assert "FLOP" in page.locator("#slider").get_attribute("aria-valuetext")
        until(page, "document.querySelector('#live').textContent.includes('Train')")
        page.reload()
        page.wait_for_selector("body[data-ready]")
        assert shown(page) == said(site, query), "the address asks the same again"


@pytest.mark.browser
def test_the_first_load_is_small_and_everything_comes_from_the_service(site):
    with opened(site, "?fit=pilot&flops=1e13") as page:
        sizes = page.evaluate(
            "performance.getEntriesByType('resource').concat(performance.getEntriesByType("
            "'navigation')).map(e => e.transferSize)"
        )
        assert len(sizes) > 10
        assert 100_000 < sum(sizes) <= MOST_BYTES
        print(f"first load: {sum(sizes)} bytes in {len(sizes)} files")


@pytest.mark.browser
def test_a_table_that_is_sent_in_becomes_the_law(site, tmp_path):
    (tmp_path / "runs.csv").write_bytes(table())
    with opened(site) as page:
        page.get_by_role("button", name="Fit your runs").click()
        page.set_input_files("#file", tmp_path / "runs.csv")
        page.click("#send")
        until(page, "document.querySelector('#source').value.startsWith('fit:upload-')")
        until(page, "location.search.includes('upload-')")
        until(page, "document.querySelector('#basis').textContent.includes('upload-')")
        query = page.evaluate("location.search").removeprefix("?")
        assert shown(page) == said(site, query)


@pytest.mark.browser
def test_a_wrong_entry_is_reported_beside_its_field_and_the_page_goes_on(site):
    with opened(site, "?fit=pilot&flops=1e13") as page:
        page.fill("#amount", "lots")
        page.wait_for_selector("#amount[aria-invalid]")
        assert "lots" in page.locator("#amount-fault").inner_text()
        page.fill("#amount", "2e13")
        until(page, "document.querySelector('#amount-fault').textContent === ''")
        assert shown(page) == said(site, "fit=pilot&flops=2e13")
        page.faults.clear()  # the browser reports the refused request itself


@pytest.mark.browser
def test_a_limit_that_binds_shows_what_relaxing_it_gains(site):
    with opened(site, "?fit=pilot&flops=1e14") as page:
        free = shown(page)["params"]
        page.locator("#limits summary").click()
        page.fill("#field-max_params", f"{free / 3:.4g}")
        until(page, "!document.querySelector('#binding').hidden")
        query = page.evaluate("location.search").removeprefix("?")
        assert shown(page) == said(site, query)
        assert "Parameters at most" in page.locator("#binding").inner_text()
        page.click("#clear")
        until(page, "document.querySelector('#binding').hidden")
        assert shown(page)["params"] == free


@pytest.mark.browser
def test_charts_answer_to_the_pointer_and_can_be_saved(site):
    with opened(site, "?fit=pilot&flops=1e13", viewport={"width": 1280, "height": 1400}) as page:
        for name in ("loss", "params", "tokens", "valleys"):
            box = page.locator(f"#figure-{name} svg.chart").bounding_box()
            page.mouse.move(box["x"] + 0.45 * box["width"], box["y"] + 0.5 * box["height"])
            page.mouse.move(box["x"] + 0.46 * box["width"], box["y"] + 0.52 * box["height"])
        run = page.locator("#figure-valleys g[aria-label=dot] circle").nth(3)
        run.scroll_into_view_if_needed()
        dot = run.bounding_box()
        page.mouse.move(dot["x"] + 2, dot["y"] + 2)
        page.wait_for_selector("#figure-valleys [aria-label=tip] text")
        assert "FLOP" in page.locator("#figure-valleys [aria-label=tip]").text_content()
        with page.expect_download() as caught:
            page.locator("#figure-loss .svg").click()
        text = caught.value.path().read_text()
        assert text.startswith("<svg") and "tip" not in text


@pytest.mark.browser
def test_two_laws_are_compared_and_drawn(site):
    with opened(site, "?law=hoffmann2022&flops=1e22") as page:
        page.select_option("#rival", "besiroglu2024")
        page.wait_for_selector("#comparison table")
        assert "besiroglu2024" in page.locator("#figure-loss .legend").inner_text()
        assert "vs=besiroglu2024" in page.evaluate("location.search")


@pytest.mark.browser
def test_light_and_dark_follow_the_system_and_the_switch(site):
    with opened(site, "?fit=pilot&flops=1e13", color_scheme="dark") as page:
        ground = "getComputedStyle(document.body).backgroundColor"
        dark = page.evaluate(ground)
        page.click("#theme")
        assert page.evaluate(ground) != dark
        page.reload()
        page.wait_for_selector("body[data-ready]")
        assert page.evaluate(ground) != dark, "the choice is kept"


@pytest.mark.browser
@pytest.mark.parametrize("width", [320, 390, 768, 1280])
def test_the_page_fits_its_window(site, width):
    with opened(site, "?fit=pilot&flops=1e13", viewport={"width": width, "height": 800}) as page:
        page.locator("#limits summary").click()
        assert page.evaluate("document.documentElement.scrollWidth") <= width


@pytest.mark.browser
def test_everything_that_can_be_worked_has_a_name_and_can_be_reached_by_key(site):
    with opened(site, "?fit=pilot&flops=1e13") as page:
        unnamed = page.evaluate(
            "[...document.querySelectorAll('button, input, select, svg[role=img]')].filter(e => "
            "!(e.getAttribute('aria-label') || e.labels?.length || e.textContent.trim()))"
            ".map(e => e.id)"
        )
        assert unnamed == []
        reached = set()
        for _ in range(30):
            page.keyboard.press("Tab")
            reached.add(page.evaluate("document.activeElement.id"))
        assert {"source", "open-upload", "theme", "amount", "slider", "share"} <= reached


@pytest.mark.browser
def test_a_service_with_a_token_asks_for_it_once(site, tmp_path):
    served = service(pilot(tmp_path))
    token = "a-token-of-twenty-chars"
    with served_page(served, token) as url:
        page = site[0].new_page()
        page.goto(f"{url}?fit=pilot&flops=1e13")
        page.fill("#token", token)
        page.keyboard.press("Enter")
        page.wait_for_selector("body[data-ready]")
        assert shown(page)["params"] > 0
        assert token not in page.url
        page.close()
    served.close()
