"""The layout of a figure, which every format shares."""

import io

import numpy as np
from matplotlib.figure import Figure

from fit.report.legends import lay_out


def drawn():
    """A figure whose layout depends on the size of its labels."""
    figure = Figure(figsize=(4, 2), layout="constrained")
    for ax in figure.subplots(1, 2):
        ax.plot([1, 2], [1e-7, 3e4])
        ax.set(ylabel="Loss [nats/token]", xlabel="Parameters")
    return figure


def test_a_figure_is_drawn_once_for_each_format_and_laid_out_as_by_saving_it(monkeypatch):
    plain, ours = drawn(), drawn()
    plain.savefig(io.BytesIO(), format="pdf")
    draws, draw = [], Figure.draw

    def counted(figure, renderer):
        draws.append(figure)
        return draw(figure, renderer)

    lay_out(ours)
    monkeypatch.setattr(Figure, "draw", counted)
    for form in ("pdf", "svg"):
        ours.savefig(io.BytesIO(), format=form)
    assert len(draws) == 2
    for a, b in zip(plain.axes, ours.axes, strict=True):
        np.testing.assert_array_equal(a.get_position().bounds, b.get_position().bounds)
