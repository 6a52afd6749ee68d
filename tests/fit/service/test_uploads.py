"""Names of uploaded fits: given, changed, kept in the folder of reports, and deleted."""

import asyncio

import pytest

from fit.errors import ServeError
from fit.results import read_fit, write_fit
from fit.service.jobs import WorkerPool
from fit.service.serve import serve
from tests.fit.builders import make_fit
from tests.fit.service.client import ask, pilot, service

CSV = {"content-type": "text/csv"}


class Workers(WorkerPool):
    """Fits at once, without a process."""

    async def command(self, arguments, *, folder, kind):
        name = arguments[2].removeprefix("--out=")
        write_fit(folder / name, make_fit(name=name))


def sent(root, name="mine", mode="keep"):
    """A service with one upload."""
    served = service(pilot(root), mode=mode, workers=Workers())
    reply = ask(served, f"/v1/fits?name={name}", method="POST", content=b"a", headers=CSV)
    assert reply.status_code == 201 and reply.json()["name"] == name
    return served


def change(served, query, name="mine"):
    return ask(served, f"/v1/fits/{name}?{query}", method="PATCH")


@pytest.mark.parametrize(
    ("name", "status"),
    [("pilot", 409), ("mine", 409), ("hoffmann2022", 409), ("../x", 422), (".x", 422), ("", 422)],
)
def test_a_name_that_is_taken_or_no_name_is_refused(tmp_path, name, status):
    served = sent(tmp_path)
    for reply in (
        ask(served, f"/v1/fits?name={name}", method="POST", content=b"b", headers=CSV),
        change(served, f"name={name}") if name != "mine" else None,
    ):
        if reply is not None:
            assert reply.status_code == status, reply.text
            assert reply.json()["error"]["field"] == "name"
    assert list(served.registry.uploads) == ["mine"]
    served.close()


def test_a_new_name_stands_in_the_document_and_in_every_answer(tmp_path):
    served = sent(tmp_path)
    assert change(served, "name=other").json()["name"] == "other"
    answer, gone = ask(served, "/v1/query?flops=1e13&fit=other", "/v1/query?flops=1e13&fit=mine")
    assert answer.json()["source"] == "other" and gone.status_code == 404
    served.close()


def test_a_kept_fit_outlives_the_service_and_can_still_be_renamed_and_deleted(tmp_path):
    served = sent(tmp_path)
    assert change(served, "keep=true&name=better").status_code == 200
    served.close()
    assert read_fit(tmp_path / "better").name == "better"
    assert (tmp_path / "better" / "uploaded.csv").read_bytes() == b"a"
    again = service(tmp_path, mode="keep")
    rows = {r["name"]: r["kept"] for r in ask(again, "/v1/fits").json()["fits"]}
    assert rows == {"better": True, "pilot": False, "blind": False}
    assert change(again, "name=best", "better").status_code == 200
    assert ask(again, "/v1/fits/best", method="DELETE").status_code == 204
    assert sorted(p.name for p in tmp_path.iterdir()) == ["blind", "pilot"]


def test_what_did_not_come_through_the_service_is_left_alone(tmp_path):
    served = sent(tmp_path)
    before = (tmp_path / "pilot" / "fit.json").read_bytes()
    for method, query in (("DELETE", ""), ("PATCH", "?name=x"), ("PATCH", "?keep=true")):
        reply = ask(served, f"/v1/fits/pilot{query}", method=method)
        assert (reply.status_code, reply.json()["error"]["kind"]) == (403, "forbidden")
    foreign = {"sec-fetch-site": "cross-site"}
    assert ask(served, "/v1/fits/mine", method="DELETE", headers=foreign).status_code == 403
    assert (tmp_path / "pilot" / "fit.json").read_bytes() == before
    assert "mine" in served.registry.uploads
    served.close()


def test_a_link_to_another_folder_is_no_kept_fit(tmp_path):
    root, other = tmp_path / "reports", tmp_path / "other"
    write_fit(other, make_fit(name="other"))
    (other / "uploaded.csv").write_text("a")
    served = service(pilot(root), mode="keep")
    (root / "linked").symlink_to(other)
    assert ask(served, "/v1/fits/linked", method="DELETE").status_code in (403, 404)
    assert (other / "fit.json").exists()


@pytest.mark.parametrize("query", ["keep=maybe", "keep=true&keep=true", "law=l2", "name=a&name=b"])
def test_a_change_that_cannot_be_read_is_refused(tmp_path, query):
    served = sent(tmp_path)
    assert change(served, query).status_code == 422
    served.close()


def test_a_service_that_keeps_nothing_says_how_to_make_it(tmp_path):
    served = sent(tmp_path, mode="session")
    reply = change(served, "keep=true&name=other")
    assert reply.status_code == 403 and "--uploads keep" in reply.json()["error"]["message"]
    assert list(served.registry.uploads) == ["mine"], "nor is it renamed"
    served.close()


def test_a_service_that_takes_no_tables_refuses_them_before_they_are_read(tmp_path):
    served = service(pilot(tmp_path), mode="off")
    for path in ("/v1/fits", "/v1/preview"):
        reply = ask(served, path, method="POST", content=b"x" * 1000, headers=CSV)
        assert reply.status_code == 403, reply.text


def test_two_tables_of_one_name_at_once_do_not_become_one_fit(tmp_path):
    served = service(pilot(tmp_path), workers=Workers())

    async def run():
        fits = (served.jobs.fit_table(body, "csv", [], "mine") for body in (b"1", b"2"))
        return await asyncio.gather(*fits, return_exceptions=True)

    done, refused = asyncio.run(run())
    assert done.name == "mine" and refused.kind == "conflict"
    served.close()


def test_a_table_is_read_as_it_would_be_fitted(tmp_path):
    served = service(pilot(tmp_path))
    body = b"n_params,tokens,val_loss\n1e6,1e8,3\n"
    reply = ask(served, "/v1/preview", method="POST", content=body, headers=CSV)
    assert reply.json()["mapping"] == {"params": "n_params", "tokens": "tokens", "loss": "val_loss"}


def test_named_fits_and_keeping_uploads_exclude_each_other(tmp_path):
    root = pilot(tmp_path)
    with pytest.raises(ServeError, match="--uploads keep"):
        serve(host="127.0.0.1", port=0, folders=[root / "pilot"], uploads="keep")
