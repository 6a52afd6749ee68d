"""What tests of several packages share."""

import dataclasses

import pytest

from fit.report import figures
from fit.report.sections import FIRST_FIGURE


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config, log):
    """All fast tests of a file run in one worker: they share what they compose, fit and draw."""
    from xdist.scheduler import LoadFileScheduling

    return LoadFileScheduling(config, log) if "not slow" in config.option.markexpr else None


@pytest.fixture
def few_figures(monkeypatch):
    """Reports with their first figure alone; tests/fit/report draws all, which takes seconds."""
    few = {
        name: figure
        if name == FIRST_FIGURE
        else dataclasses.replace(figure, draw=lambda inputs: None)
        for name, figure in figures.FIGURES.items()
    }
    monkeypatch.setattr(figures, "FIGURES", few)


@pytest.fixture
def few_checks(monkeypatch):
    """Fits without the checks that fit again and again, where they are not at stake."""
    for check in ("rolling", "influence", "conventions"):
        monkeypatch.setattr(f"fit.fitting.{check}", lambda *_, **__: ())
