"""Figures of one fit, drawn once for all tests of the report."""

import pytest

from fit.allocation.scaling_law import ScalingLaw
from fit.report.figures import draw_figures, figure_inputs
from fit.results import Influence
from tests.fit.builders import make_fit

MOVED = Influence(kind="run", run="w16", runs=1, shift=0.1, share=0.5, flops=1e12)


@pytest.fixture(scope="session")
def figures():
    """All figures of a healthy fit, by name."""
    return draw_figures(figure_inputs(ScalingLaw.from_fit(make_fit(influence=(MOVED,)))))


@pytest.fixture(scope="session")
def drawn(figures):
    """The same as the PDF files that a template includes."""
    return {f"{n}.pdf": d.pdf for n, d in figures.items()}
