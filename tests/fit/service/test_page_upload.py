"""Tables sent from the page: dropped, mapped by menus, fitted; and what becomes of the fit."""

import httpx
import pytest

from fit.service.static import PAGE
from tests.fit.service.browser import forgive_refusals, opened, said, served_page, shown, until
from tests.fit.service.client import pilot, service, table

pytestmark = pytest.mark.browser
READ = "!document.querySelector('#reading').hidden"


@pytest.fixture(scope="module")
def keeping(site, tmp_path_factory):
    """The browser on a service that keeps uploads, and its folder of reports."""
    root = pilot(tmp_path_factory.mktemp("keeping"))
    served = service(root, mode="keep")
    with served_page(served) as url:
        yield site[0], url, root
    served.close()


def foreign():
    """The table of `client` as others would write it: sizes in millions, two losses."""
    lines = ["model,size (M),n_tokens,train_loss,val_loss"]
    for line in table().decode().splitlines()[1:]:
        run, params, tokens, loss = line.split(",")
        lines.append(f"{run},{float(params) / 1e6},{tokens},9,{loss}")
    return "\n".join(lines)


def drop(page, name, text):
    """Drop a file on the page."""
    page.evaluate(
        "([name, text]) => { const data = new DataTransfer();"
        "data.items.add(new File([text], name));"
        "for (const kind of ['dragover', 'drop']) document.body.dispatchEvent("
        "new DragEvent(kind, {bubbles: true, cancelable: true, dataTransfer: data})); }",
        [name, text],
    )


def test_a_dropped_table_is_read_and_mapped_and_fitted_under_the_name_given(keeping):
    with opened(keeping) as page:
        drop(page, "runs.csv", foreign())
        until(page, READ)
        assert "36 rows, 5 columns" in page.locator("#preview-count").inner_text()
        chosen = {r: page.locator(f"#role-{r}").input_value() for r in ("params", "tokens", "loss")}
        assert chosen == {"params": "", "tokens": "n_tokens", "loss": "val_loss"}
        page.select_option("#role-params", "size (M)")
        assert page.locator("#unit-params").input_value() == "M", "by the name of the column"
        assert page.locator("#preview th b").all_inner_texts() == ["params", "tokens", "loss"]
        assert page.locator("#preview tbody tr").count() == 6
        page.fill("#fit-name", "mine")
        page.click("#send")
        until(page, "document.querySelector('#source').value === 'fit:mine'")
        until(page, "document.querySelector('#basis').textContent.includes('mine')")
        assert shown(page) == said(keeping, page.evaluate("location.search").removeprefix("?"))
        fit = httpx.get(f"{keeping[1]}v1/fits/mine").json()
        assert fit["theta"]["E"] == pytest.approx(1.7, abs=0.03) and fit["runs_used"] == 36
        page.click("#open-upload")
        page.click("#send")
        until(page, "!document.querySelector('#upload-fault').hidden")
        assert "taken" in page.locator("#upload-fault").inner_text()
        forgive_refusals(page)


def test_rows_of_one_run_are_named_by_a_menu(keeping):
    lines = ["run,params,tokens,loss"]
    for line in table().decode().splitlines()[1:]:
        _, params, tokens, loss = line.split(",")
        lines.append(f"of {params},{params},{tokens},{loss}")

    def noted(name):
        return [note["code"] for note in httpx.get(f"{keeping[1]}v1/fits/{name}").json()["notes"]]

    with opened(keeping) as page:
        for name, cluster in (("apart", ""), ("together", "run")):
            page.click("#open-upload") if cluster else drop(page, "curves.csv", "\n".join(lines))
            until(page, READ)
            page.locator("#upload details").evaluate("one => { one.open = true; }")
            page.select_option("#cluster", cluster)
            page.fill("#fit-name", name)
            page.click("#send")
            until(page, f"document.querySelector('#source').value === 'fit:{name}'")
        forgive_refusals(page)
    assert "trajectory" in noted("apart") and "trajectory" not in noted("together")


def test_a_fit_that_was_sent_is_renamed_kept_and_deleted(keeping):
    root = keeping[2]
    body = {"content": table(), "headers": {"content-type": "text/csv"}, "timeout": 60}
    httpx.post(f"{keeping[1]}v1/fits?name=second", **body).raise_for_status()
    with opened(keeping, "?fit=second&flops=1e20") as page:
        before = shown(page)
        page.click("#open-fits")
        until(page, "document.querySelectorAll('#fits-table tbody tr').length > 3")
        assert page.get_by_role("button", name="Delete pilot").count() == 0, "it is not ours"
        page.get_by_role("button", name="Rename second").click()
        page.get_by_label("New name of second").fill("third")
        page.keyboard.press("Enter")
        until(page, "location.search.includes('fit=third')")
        until(page, "document.querySelector('#basis').textContent.includes('third')")
        page.get_by_role("button", name="Keep third").click()
        page.wait_for_selector("text=sent in, kept")
        files = {p.name for p in (root / "third").iterdir()}
        assert files == {"fit.json", "uploaded.csv"}
        assert (root / "third" / "uploaded.csv").read_bytes() == table()
        until(page, "document.querySelector('#answer').getAttribute('aria-busy') === 'false'")
        assert shown(page) == before
        page.get_by_role("button", name="Delete third").click()
        assert (root / "third").exists(), "asked once more"
        page.get_by_role("button", name="Delete third").click()
        until(page, "!location.search.includes('third')")
        assert not (root / "third").exists() and (root / "pilot").exists()


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("runs.xlsx", "PK", "no table that can be sent"),
        ("runs.csv", "params,tokens,loss\n", "no rows"),
        ("runs.parquet", "PAR1 and no more", "as parquet"),
        ("runs.jsonl", "{" * 5000, "as jsonl"),
        ("runs.csv", ",".join(f"c{i}" for i in range(5000)) + "\n" + "1," * 4999 + "1\n", "5000"),
        ("<img src=x onerror=alert(1)>.csv", "\x00\x01", "csv"),
    ],
)
def test_a_hostile_file_is_refused_in_one_line(keeping, name, text, words):
    with opened(keeping) as page:
        drop(page, name, text)
        until(page, "!document.querySelector('#upload-fault').hidden")
        said = page.locator("#upload-fault").inner_text()
        assert words in said and "\n" not in said and len(said) < 600
        assert page.locator("#reading").is_hidden()
        forgive_refusals(page)


def test_names_in_a_table_are_shown_as_text(keeping):
    with opened(keeping) as page:
        drop(page, "x.csv", "<b onclick=alert(1)>,params,tokens,loss\n<i>y</i>,1,2,3\n")
        until(page, READ)
        assert page.locator("#preview i, #preview [onclick]").count() == 0
        assert "<i>y</i>" in page.locator("#preview").inner_text()


def test_the_sample_file_can_be_loaded_and_fitted(keeping):
    with opened(keeping) as page:
        page.click("#open-upload")
        with page.expect_download() as caught:
            page.get_by_role("link", name="A sample file").click()
        text = caught.value.path().read_text()
        assert text == (PAGE / "sample.csv").read_text()
        drop(page, "sample.csv", text)
        until(page, READ)
        page.click("#send")
        until(page, "document.querySelector('#source').value.startsWith('fit:upload-')")


def test_a_service_that_takes_no_tables_shows_no_way_to_send_one(site, tmp_path):
    served = service(pilot(tmp_path), mode="off")
    with served_page(served) as url, opened((site[0], url, served)) as page:
        assert page.locator("#open-upload").is_hidden()
        drop(page, "runs.csv", "params,tokens,loss\n1,2,3\n")
        page.wait_for_timeout(200)
        assert page.locator("#upload").is_hidden()
    served.close()
