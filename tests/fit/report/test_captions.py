"""Captions say what is seen in each figure, over fits that show more and less."""

import dataclasses

import numpy as np
import pandas as pd
import pytest

from fit.allocation.costs import ReportRequest
from fit.allocation.scaling_law import ScalingLaw
from fit.data.readers import load
from fit.diagnostics.curves import CurveChecks, collapse, curves_document, normalised_lines
from fit.fitting import FitOptions, fit_table
from fit.report.captions import CAPTIONS, caption_words, figure_caption
from fit.report.check_plots import ONE_EPOCH, REPEATED, training_gaps
from fit.report.figure_data import final_training_loss, shown_series
from fit.report.figures import FIGURES, figure_inputs
from fit.report.summary_page import report_content
from fit.results import Influence
from fit.verdict import Note
from tests.bench.skills import WORLDS, laws_of, simulated
from tests.fit.builders import THETA, make_fit, make_points, plain_points
from tests.fit.diagnostics.curve_builders import sweep

RUN = Influence(kind="run", run="w16", runs=1, shift=0.1, share=0.5, flops=1e12)
CLUSTER = dataclasses.replace(RUN, kind="cluster", runs=3)


def table(budgets, noise=0.004):
    """A plain table of runs at a few budgets of the published models' scale."""
    random = np.random.default_rng(0)
    sizes = np.array([5e7, 1e8, 2e8, 4e8, 8e8, 1.6e9])
    n = np.tile(sizes, len(budgets))
    d = np.repeat(budgets, len(sizes)) / 6 / n
    loss = (1.69 + 406.4 / n**0.34 + 410.7 / d**0.28) * np.exp(noise * random.normal(size=len(n)))
    return load(pd.DataFrame({"params": n, "tokens": d, "loss": loss}))


def fitted(budgets, **given):
    return ScalingLaw.from_fit(fit_table(table(budgets, **given), FitOptions(resamples=0)))


def skills():
    """A fit whose runs have losses by skill over two widths and two depths."""
    p = make_points()
    depth = np.tile([2.0, 4.0], len(p.run))[: len(p.run)]
    columns = {**p.columns, "depth": depth, "loss_facts": p.loss - 0.9}
    points = dataclasses.replace(p, columns=columns)
    return make_fit(points=points, data={"entropy": 1.0, "entropy_by_skill": {"facts": 0.1}})


def swept(seeds):
    """A fit whose runs have training curves and follow an event of the schedule."""
    simulated, curves = sweep(5, seeds=seeds, lengths=(500_000, 1_000_000))
    found = collapse(simulated, curves)
    checks = CurveChecks(collapse=found, lines=normalised_lines(simulated, curves, found))
    points = make_points()
    met = [bool(t > np.median(points.tokens)) for t in points.tokens]
    phase = {"event": "batch_step", "effect": 1e-3, "error": 2e-4, "statistic": 25.0}
    phase |= {"probability": 1e-5, "met": met}
    return make_fit(points=points, curves=curves_document(checks, None) | {"phase": phase})


CASES = {
    "records": lambda: ScalingLaw.from_fit(make_fit(influence=(RUN, CLUSTER))),
    "one kind of influence": lambda: ScalingLaw.from_fit(make_fit(influence=(RUN,))),
    "no checks": lambda: ScalingLaw.from_fit(
        make_fit(cross_checks=(), conventions=(), holdout=None, data={}, draws=np.empty((0, 5)))
    ),
    "published scale": lambda: fitted([1e19, 3e19, 1e20, 3e20]),
    "one budget": lambda: fitted([1e20]),
    "two budgets": lambda: fitted([1e19, 2e19], noise=0.03),
    "refused": lambda: ScalingLaw.from_fit(make_fit(kappa=1e5)),
    "E at its bound": lambda: ScalingLaw.from_fit(make_fit(theta={**THETA, "E": 1e-6})),
    "plain": lambda: ScalingLaw.from_fit(make_fit(points=plain_points(), recipe={})),
    "skills": lambda: ScalingLaw.from_fit(skills()),
    "scores": lambda: laws_of(simulated({"half": WORLDS["excess, half way"]}, seed=0))[0],
    "curves": lambda: ScalingLaw.from_fit(swept(2)),
    "curves of one seed": lambda: ScalingLaw.from_fit(swept(1)),
}
REQUEST = ReportRequest(serve_tokens=1e9, unique_tokens=1e6)


QUICK = ("records", "one budget", "curves", "scores")


@pytest.fixture(
    scope="module",
    params=[c if c in QUICK else pytest.param(c, marks=pytest.mark.slow) for c in CASES],
)
def drawn(request):
    """A fit, and the labels that are seen in each of its figures."""
    source = CASES[request.param]()
    return source, shown(source)


def shown(source):
    inputs = figure_inputs(source, REQUEST)
    drawn = {name: entry.draw(inputs) for name, entry in FIGURES.items()}
    return {name: shown_series(figure) for name, figure in drawn.items() if figure is not None}


def explained(name, words):
    """Labels that a caption can explain."""
    return {p[0].format_map(words) for p in CAPTIONS[name] if isinstance(p, tuple)}


def test_every_figure_has_a_caption():
    assert CAPTIONS.keys() == FIGURES.keys()


def test_a_caption_explains_every_mark_and_none_that_is_not_there(drawn):
    source, figures = drawn
    inputs, words = figure_inputs(source, REQUEST), caption_words(source)
    for name, figure in figures.items():
        caption = figure_caption(name, inputs, figure)
        assert caption.endswith(".") and "{" not in caption, (name, caption)
        unexplained = figure - explained(name, words)
        if name not in ("serving", "scores-loss"):  # their marks are told by colour
            assert not unexplained, (name, unexplained)
        for label, sentence in (p for p in CAPTIONS[name] if isinstance(p, tuple)):
            is_shown = label.format_map(words) in figure
            assert (sentence.format_map(words) in caption) == is_shown, (name, label)


def test_the_words_for_marks_are_in_the_data_that_is_drawn(drawn):
    """The words themselves, apart from the registry: what a caption calls a mark is drawn."""
    source, figures = drawn
    inputs = figure_inputs(source, REQUEST)
    marks = {
        "diamonds": ("mean of a budget",),
        "triangles are published": ("published models",),
        "triangles are models": ("published models",),
        "hollow": ("mixtures of experts",),
        "known entropy": ("known entropy",),
        "fitted $e$": ("fitted E",),
        "thin grey line": ("besiroglu2024, a published law",),
        "the star": ("the answer",),
        "confidence interval": (f"{caption_words(source)['level']} confidence",),
    }
    for name, figure in figures.items():
        caption = figure_caption(name, inputs, figure).lower()
        for words, labels in marks.items():
            assert (words in caption) <= bool(figure & set(labels)), (name, words)


def test_a_refused_fit_has_no_drawing_of_a_law_and_no_tick():
    source = CASES["one budget"]()
    figures = shown(source)
    law = {"law", "optimum N*", "efficient frontier", "law at one budget", "law at one D"}
    for name, figure in figures.items():
        if name != "fit":  # measured against fitted: both of the runs themselves
            assert not figure & law, name
    content = report_content(source, drawn=figures)
    assert "good" not in {grade for grade, _ in content["checks"]}
    assert content["answers"] is None
    codes = [b.get("code", "") for s in content["brief"] for b in s["blocks"]]
    assert not any("--config" in code for code in codes)


def test_an_e_far_below_the_runs_does_not_press_them_into_a_line():
    inputs = figure_inputs(CASES["E at its bound"]())
    labels = shown_series(FIGURES["loss-compute"].draw(inputs))
    assert "fitted E" not in labels and "runs" in labels


def test_the_figure_of_curves_has_a_line_per_size_and_the_noise_between_seeds():
    figure = FIGURES["curves"].draw(figure_inputs(ScalingLaw.from_fit(swept(2))))
    left, right = figure.axes
    names = [line.get_gid() for line in left.get_lines() if line.get_label() == "a size"]
    assert names == ["14.1k", "25.8k", "40.5k", "79.2k", "130k"]
    assert sum(line.get_label() == "a size" for line in right.get_lines()) == 5
    assert "noise between seeds" in shown_series(figure)
    alone = FIGURES["curves"].draw(figure_inputs(ScalingLaw.from_fit(swept(1))))
    assert "noise between seeds" not in shown_series(alone)


def with_curves(folder, points, above):
    """Write a curve beside every run: its training loss ends so much above the held-out loss."""
    for run, tokens, loss in zip(points.run, points.tokens, points.loss, strict=True):
        ends = np.linspace(0.01, 1, 100) * tokens
        (folder / run).mkdir()
        rows = [f"{d:.9g},{loss + above + 0.3 * (1 - d / tokens):.9g},0.01,1" for d in ends]
        (folder / run / "curve.csv").write_text("\n".join(["tokens,loss,lr,norm", *rows]) + "\n")


@pytest.mark.parametrize(("unique", "seen"), [(None, {ONE_EPOCH}), (3e6, {ONE_EPOCH, REPEATED})])
def test_training_and_held_out_losses_are_compared_where_curves_lie_beside_the_runs(
    tmp_path, unique, seen
):
    points = make_points()
    with_curves(tmp_path, points, 0.004)
    data = {"entropy": 1.0, "unique_tokens": unique}
    fit = make_fit(source={"path": str(tmp_path), "hash": "sha256:0"}, data=data)
    inputs = figure_inputs(ScalingLaw.from_fit(fit))
    gaps = training_gaps(fit, inputs.curves)
    assert len(gaps) == len(points.run) and gaps[:, 1] == pytest.approx(-0.004, abs=1e-7)
    labels = shown_series(FIGURES["training"].draw(inputs))
    assert labels == {"training loss", "held-out loss", "known entropy", *seen}
    caption = figure_caption("training", inputs, labels)
    assert "The mean is -4.0" in caption and ("more than one epoch" in caption) == (unique == 3e6)
    unit = {**fit.convention, "loss": "bits/byte"}
    bits = dataclasses.replace(fit, convention=unit)
    assert FIGURES["training"].draw(figure_inputs(ScalingLaw.from_fit(bits))) is None


def test_the_end_of_a_training_curve_is_that_of_a_line_with_its_error():
    rng = np.random.default_rng(0)
    tokens = np.arange(1.0, 2001.0)
    ends, errors = [], []
    for _ in range(200):
        loss = 1 + 0.2 * (1 - tokens / 2000) + 0.05 * rng.normal(size=len(tokens))
        end, error = final_training_loss(np.column_stack([tokens, loss, tokens, tokens]))
        ends.append(end)
        errors.append(error)
    assert np.mean(ends) == pytest.approx(1, abs=4 * np.std(ends) / 200**0.5)
    assert np.mean(errors) == pytest.approx(np.std(ends), rel=0.15)  # 5% by chance
    assert np.isnan(final_training_loss(np.ones((3, 4)))[0])


def test_a_figure_without_a_law_names_the_reason_of_the_verdict():
    note = Note(code="misfit", severity="serious", message="two laws hold in this range. Split it.")
    inputs = figure_inputs(ScalingLaw.from_fit(make_fit(notes=(note,))))
    assert inputs.verdict.refused
    for name in ("loss-compute", "isoflop"):
        caption = figure_caption(name, inputs, ())
        assert caption.endswith("The law is not drawn: two laws hold in this range.")
