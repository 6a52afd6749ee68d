"""A browser on a served page."""

import pytest

from tests.fit.service.browser import browser, served_page
from tests.fit.service.client import pilot, service


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """A browser, the page's address, and what the service holds."""
    root = tmp_path_factory.mktemp("reports")
    served = service(pilot(root))
    with served_page(served) as url, browser() as chromium:
        yield chromium, url, served
    served.close()
