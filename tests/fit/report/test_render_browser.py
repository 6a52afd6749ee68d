"""The report as one HTML file, in a browser: it asks for nothing and fits a phone."""

import shutil

import pytest

from fit.report.render import write_report
from fit.results import write_fit
from tests.fit.builders import make_fit

FLAGS = ("--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking")


@pytest.mark.browser
@pytest.mark.parametrize("width", [375, 1100])
def test_the_file_asks_for_nothing_and_never_scrolls_sideways(tmp_path, width):
    from playwright.sync_api import sync_playwright

    write_fit(tmp_path, make_fit())
    address = write_report(tmp_path, form="html").path.as_uri()
    path = shutil.which("chromium")
    assert path, "this test needs chromium: apt-get install chromium"
    requests, messages = [], []
    with sync_playwright() as play:
        chromium = play.chromium.launch(executable_path=path, headless=True, args=FLAGS)
        page = chromium.new_page(viewport={"width": width, "height": 800})
        page.on("request", lambda request: requests.append(request.url))
        page.on("console", lambda message: messages.append(message.text))
        page.goto(address)
        assert page.evaluate("document.documentElement.scrollWidth") == width
        assert page.locator("svg").count() >= 10
        assert all(
            box["width"] > 250 for svg in page.locator("svg").all() if (box := svg.bounding_box())
        )
        chromium.close()
    assert requests == [address]
    assert messages == []
