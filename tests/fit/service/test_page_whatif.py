"""The what-if chart of the page: contours, budget, limits, the answer and a point of one's own."""

import httpx
import pytest

from tests.fit.service.browser import forgive_refusals, opened, until

pytestmark = pytest.mark.browser
SIZE = {"width": 1280, "height": 1400}
DRAWN = "document.querySelector('#figure-contours svg.chart') !== null"


def position(page, n, d):
    """Where a point of the chart is on the screen, by the chart's own scales."""
    return page.evaluate(
        f"""(() => {{ const c = document.querySelector('#figure-contours svg.chart');
        const b = c.getBoundingClientRect();
        return [b.left + c.scale('x').apply({n}), b.top + c.scale('y').apply({d})]; }})()"""
    )


def test_the_answer_is_marked_where_the_contours_touch_the_budget(site):
    query = "fit=pilot&flops=3e13&max_params=30k"
    with opened(site, f"?{query}", viewport=SIZE) as page:
        until(page, DRAWN)
        document = httpx.get(f"{site[1]}v1/contours?{query}").json()
        x, y = position(page, document["answer"]["params"], document["answer"]["tokens"])
        dot = page.locator("#figure-contours circle[r='5.5']").bounding_box()
        assert abs(dot["x"] + dot["width"] / 2 - x) < 1.5
        assert abs(dot["y"] + dot["height"] / 2 - y) < 1.5
        legend = page.locator("#figure-contours .legend").inner_text()
        assert "3e13 FLOP" in legend and "excluded: Parameters at most" in legend


def test_a_line_of_equal_loss_lies_where_the_grid_has_that_loss(site):
    with opened(site, "?fit=pilot&flops=3e13", viewport=SIZE) as page:
        until(page, DRAWN)
        document = httpx.get(f"{site[1]}v1/contours?fit=pilot&flops=3e13").json()
        labels = page.locator("#figure-contours g[aria-label=text] text")
        assert labels.count() >= 5
        edge = [row[-2] for row in document["loss"]]
        frame = page.locator("#figure-contours svg.chart").bounding_box()
        for i in range(3):
            level, box = float(labels.nth(i).text_content()), labels.nth(i).bounding_box()
            if box["x"] + box["width"] < frame["x"] + 0.9 * frame["width"]:
                continue  # its line leaves the chart at the top
            middle = box["y"] + box["height"] / 2
            at = [position(page, 1e5, d)[1] for d in document["tokens"]]
            nearest = min(range(len(at)), key=lambda k: abs(at[k] - middle))
            near = edge[max(0, nearest - 1) : nearest + 2]
            assert min(near) <= level <= max(near), (level, near)


def test_a_point_of_ones_own_is_predicted_and_kept_in_the_address(site):
    with opened(site, "?fit=pilot&flops=3e13", viewport=SIZE) as page:
        until(page, DRAWN)
        page.fill("#what-params", "50k")
        page.fill("#what-tokens", "20M")
        page.keyboard.press("Enter")
        until(page, "document.querySelector('#what-words').textContent.includes('best split')")
        predicted = httpx.get(f"{site[1]}v1/predict?fit=pilot&params=50k&tokens=20M").json()
        words = page.locator("#what-words").inner_text()
        assert f"{predicted['loss']['value']:.4f}" in words and predicted["verdict"] in words
        assert "at=50k%2C20M" in page.evaluate("location.search")
        page.wait_for_timeout(1100)  # a step of its own in the history
        page.locator("#figure-contours svg.chart").scroll_into_view_if_needed()
        x, y = position(page, 1e5, 1e7)
        page.mouse.click(x, y)
        until(page, "!location.search.includes('at=50k')")
        until(page, "document.querySelector('#what-params').value !== '50k'")
        clicked = [float(page.locator(f"#what-{n}").input_value()) for n in ("params", "tokens")]
        assert clicked == pytest.approx([1e5, 1e7], rel=0.02)  # a pixel
        page.go_back()
        until(page, "document.querySelector('#what-params').value === '50k'")


def test_of_what_is_refused_there_is_no_chart_and_a_wrong_point_is_said(site):
    with opened(site, "?fit=pilot&flops=3e13") as page:
        until(page, DRAWN)
        page.fill("#what-params", "many")
        page.fill("#what-tokens", "1e9")
        page.keyboard.press("Enter")
        until(page, "document.querySelector('#what-fault').textContent.includes('many')")
        page.fill("#amount", "1e17")
        until(page, "document.querySelector('#figure-contours').hidden")
        page.fill("#amount", "2e13")
        until(page, "!document.querySelector('#figure-contours').hidden")
        forgive_refusals(page)


@pytest.mark.parametrize("name", ["loss", "params", "valleys", "contours"])
def test_a_chart_is_saved_as_a_picture_and_as_its_numbers(site, name):
    with opened(site, "?fit=pilot&flops=3e13", viewport=SIZE) as page:
        until(page, DRAWN)
        with page.expect_download() as caught:
            page.locator(f"#figure-{name} .png").click()
        assert caught.value.suggested_filename == f"{name}.png"
        picture = caught.value.path().read_bytes()
        assert picture.startswith(b"\x89PNG")
        width = int(page.locator(f"#figure-{name} svg.chart").get_attribute("width"))
        assert int.from_bytes(picture[16:20], "big") == 3 * width
        with page.expect_download() as caught:
            page.locator(f"#figure-{name} .csv").click()
        head, *rows = caught.value.path().read_text().splitlines()
        if name == "contours":
            document = httpx.get(f"{site[1]}v1/contours?fit=pilot&flops=3e13").json()
            sent = [v for row in document["loss"] for v in row]
            assert [float(row.split(",")[2]) for row in rows] == sent
            return
        curves = httpx.get(f"{site[1]}v1/curves?fit=pilot").json()
        if name == "valleys":
            assert len(rows) == sum(len(v["params"]) for v in curves["valleys"])
            return
        law = [float(r.split(",")[2]) for r in rows if r.startswith("law")]
        assert law == curves[name]["value"] and head.split(",")[2] == name
        assert sum(r.startswith("run") for r in rows) == len(curves["runs"])
