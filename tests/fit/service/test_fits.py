"""Fits in service: read again when they change, kept when they cannot be read."""

import os

import pytest

from fit.results import write_fit
from fit.service.errors import RequestError
from fit.service.fits import FitRegistry
from tests.fit.builders import make_fit
from tests.fit.service.client import pilot


def test_a_fit_is_read_again_when_its_file_changes_and_not_before(tmp_path):
    registry = FitRegistry(pilot(tmp_path))
    first = registry.get("pilot")
    assert registry.get("pilot") is first
    os.utime(tmp_path / "pilot" / "fit.json", (1, 1))
    assert registry.get("pilot").source is first.source, "a touched file is the same fit"
    write_fit(tmp_path / "pilot", make_fit(name="pilot", noise=0.5))
    assert registry.get("pilot").fit.noise == 0.5
    assert registry.reloads == 1


def test_a_half_written_fit_leaves_the_old_one_in_service(tmp_path):
    registry = FitRegistry(pilot(tmp_path))
    file = tmp_path / "pilot" / "fit.json"
    whole, first = file.read_text(), registry.get("pilot")
    for part in (whole[: len(whole) // 2], "", "\x00", '{"schema": "isoflop.fit/9"}'):
        file.write_text(part)
        law = registry.get("pilot")
        assert law.source is first.source and law.trouble
    file.write_text(whole)
    assert registry.get("pilot").trouble is None


def test_a_fit_that_was_never_readable_is_named(tmp_path):
    pilot(tmp_path)
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "fit.json").write_text("{")
    registry = FitRegistry(tmp_path)
    with pytest.raises(RequestError, match="cannot read the fit 'broken'"):
        registry.get("broken")
    assert [h.name for h in registry.readable()] == ["blind", "pilot"]


def test_a_fit_that_is_removed_is_gone_and_a_new_one_is_there(tmp_path):
    registry = FitRegistry(pilot(tmp_path))
    assert registry.get("pilot")
    (tmp_path / "pilot" / "fit.json").unlink()
    with pytest.raises(RequestError, match="known are blind"):
        registry.get("pilot")
    write_fit(tmp_path / "later", make_fit(name="later"))
    assert registry.newest().name == "later"


def test_a_fit_is_asked_by_its_name_or_below_the_folder_of_reports(tmp_path):
    registry = FitRegistry(pilot(tmp_path / "reports"))
    assert registry.get("reports/pilot") is registry.get("pilot")
    for outside in ("reports/../pilot", "other/pilot", "/etc/pilot", "reports/reports/pilot"):
        with pytest.raises(RequestError, match="known are blind, pilot"):
            registry.get(outside)


def test_only_the_folders_named_are_served(tmp_path):
    pilot(tmp_path)
    registry = FitRegistry(tmp_path, {"pilot": tmp_path / "pilot" / "fit.json"})
    assert registry.names() == ["pilot"]
    with pytest.raises(RequestError, match="no fit 'blind'"):
        registry.get("blind")


def test_a_name_is_a_fit_or_else_a_published_law(tmp_path):
    registry = FitRegistry(pilot(tmp_path))
    assert registry.fit_or_law("pilot", "a").source.fit is not None
    assert registry.fit_or_law("hoffmann2022", "a").source.preset is not None
    assert registry.select("hoffmann2022", None).source.preset is not None
    assert registry.get("example").source.name == "example", "the fit of the package"
    with pytest.raises(RequestError) as caught:
        registry.fit_or_law("neither", "b")
    assert caught.value.field == "b"
