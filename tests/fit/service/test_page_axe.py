"""Accessibility of the page by the rules of axe-core: nothing serious and nothing critical."""

import pytest

from fit.results import write_fit
from tests.fit.builders import make_fit
from tests.fit.service.browser import forgive_refusals, opened, served_page, until
from tests.fit.service.client import pilot, service

pytestmark = pytest.mark.browser
WIDTHS = {"desktop": 1280, "phone": 390}


@pytest.fixture(scope="module")
def judged(site, tmp_path_factory):
    """The browser on a page with a fit of each verdict."""
    root = pilot(tmp_path_factory.mktemp("axe"))
    write_fit(root / "sound", make_fit(name="sound", notes=()))
    served = service(root)
    with served_page(served) as url:
        yield site[0], url, served
    served.close()


def violations(page):
    """What axe finds of high impact: the rule, and the elements."""
    axe = pytest.importorskip("axe_playwright_python.sync_playwright")
    found = axe.Axe().run(page).response["violations"]
    return [
        (rule["id"], [node["target"] for node in rule["nodes"]][:4])
        for rule in found
        if rule["impact"] in ("serious", "critical")
    ]


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", WIDTHS)
def test_an_answer_has_no_serious_violation(judged, scheme, width):
    size = {"width": WIDTHS[width], "height": 900}
    query = "fit=pilot&flops=3e14&max_params=200k&beside=fit%3Dpilot%26flops%3D1e13&at=50k,20M"
    with opened(judged, f"?{query}", viewport=size, color_scheme=scheme) as page:
        until(page, "document.querySelector('#figure-contours svg.chart') !== null")
        until(page, "document.querySelector('#beside-table table') !== null")
        page.click("#table-runs summary")
        page.click("#table-frontier summary")
        assert violations(page) == []
        page.click("#open-upload")
        assert violations(page) == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("query", ["fit=sound&flops=1e17", "fit=blind&flops=1e13", "fit=nope"])
def test_a_refusal_has_no_serious_violation(judged, scheme, query):
    with opened(judged, f"?{query}", color_scheme=scheme) as page:
        assert violations(page) == []
        forgive_refusals(page)
