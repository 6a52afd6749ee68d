"""Fits in service: read again when they change, kept when they cannot be read."""

import os

import pytest

from fit.results import write_fit
from fit.service.fits import FitRegistry
from fit.service.http import RequestError
from tests.fit.builders import make_fit
from tests.fit.service.client import pilot


def test_a_fit_is_read_again_when_its_file_changes_and_not_before(tmp_path):
    shelf = FitRegistry(pilot(tmp_path))
    first = shelf.get("pilot")
    assert shelf.get("pilot") is first
    os.utime(tmp_path / "pilot" / "fit.json", (1, 1))
    assert shelf.get("pilot").source is first.source, "a touched file is the same fit"
    write_fit(tmp_path / "pilot", make_fit(name="pilot", noise=0.5))
    assert shelf.get("pilot").fit.noise == 0.5
    assert shelf.reloads == 1


def test_a_half_written_fit_leaves_the_old_one_in_service(tmp_path):
    shelf = FitRegistry(pilot(tmp_path))
    file = tmp_path / "pilot" / "fit.json"
    whole, first = file.read_text(), shelf.get("pilot")
    for part in (whole[: len(whole) // 2], "", "\x00", '{"schema": "isoflop.fit/9"}'):
        file.write_text(part)
        held = shelf.get("pilot")
        assert held.source is first.source and held.trouble
    file.write_text(whole)
    assert shelf.get("pilot").trouble is None


def test_a_fit_that_was_never_readable_is_named(tmp_path):
    pilot(tmp_path)
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "fit.json").write_text("{")
    shelf = FitRegistry(tmp_path)
    with pytest.raises(RequestError, match="cannot read the fit 'broken'"):
        shelf.get("broken")
    assert [h.name for h in shelf.all()] == ["blind", "pilot"]


def test_a_fit_that_is_removed_is_gone_and_a_new_one_is_there(tmp_path):
    shelf = FitRegistry(pilot(tmp_path))
    assert shelf.get("pilot")
    (tmp_path / "pilot" / "fit.json").unlink()
    with pytest.raises(RequestError, match="known are blind"):
        shelf.get("pilot")
    write_fit(tmp_path / "later", make_fit(name="later"))
    assert shelf.newest().name == "later"


def test_only_the_folders_named_are_served(tmp_path):
    pilot(tmp_path)
    shelf = FitRegistry(tmp_path, {"pilot": tmp_path / "pilot"})
    assert shelf.names() == ["pilot"]
    with pytest.raises(RequestError, match="no fit 'blind'"):
        shelf.get("blind")


def test_a_rival_is_a_fit_or_a_published_law(tmp_path):
    shelf = FitRegistry(pilot(tmp_path))
    assert shelf.rival("pilot", "a").source.fit is not None
    assert shelf.rival("hoffmann2022", "a").source.preset is not None
    with pytest.raises(RequestError) as found:
        shelf.rival("neither", "b")
    assert found.value.field == "b"
