"""Fits made from a known law, for tests that need a fit and not the fitting of it."""

import math
from typing import Any

import numpy as np

from fit.data.accounting import Shape, count_flops, count_params
from fit.results import CrossCheck, Fit, Holdout, Intervals, Objective, Points, Span
from fit.verdict import Note

THETA = {"E": 1.1, "A": 24.0, "B": 60.0, "alpha": 0.36, "beta": 0.33}
NOISE = 0.004
RECIPE = {
    "data": "stories",
    "data.seed": 0,
    "data.pattern": "**/*.txt,**/*.md",
    "model.head_dim": 16,
    "model.mlp_ratio": 4,
    "model.gated": False,
    "model.tied": True,
    "model.conv": 3,
    "model.seq_len": 128,
    "train.lr": 0.01,
    "train.base_width": 32,
    "train.batch_tokens": 512,
    "train.batch_doublings": [400000.0, 1600000.0],
    "train.schedule": "wsd",
    "train.warmup_tokens": None,
}
WIDTHS = (16, 32, 48, 64, 96)
TOKENS = (3e5, 6e5, 1.2e6, 2.4e6, 4.8e6)


def shape(width: int, depth: int = 2) -> Shape:
    """A shape as the synthetic runs have it."""
    return Shape(
        width=width,
        depth=depth,
        heads=width // 16,
        head_dim=16,
        d_ff=4 * width,
        vocab=500,
        seq_len=128,
        conv=3,
    )


def make_points(**given: Any) -> Points:
    """Runs on a grid of widths and tokens, their losses on the law but for some noise."""
    widths, tokens = (g.ravel() for g in np.meshgrid(WIDTHS, TOKENS, indexing="ij"))
    shapes = [shape(int(w)) for w in widths]
    params = np.array([count_params(s).matmul for s in shapes], dtype=float)
    per_token = np.array([count_flops(s).exact for s in shapes], dtype=float)
    law = (
        THETA["E"] + THETA["A"] * params ** -THETA["alpha"] + THETA["B"] * tokens ** -THETA["beta"]
    )
    residual = NOISE * np.random.default_rng(1).standard_normal(len(params))
    columns = {
        "width": widths.astype(float),
        "depth": np.full(len(widths), 2.0),
        "heads": widths / 16,
        "head_dim": np.full(len(widths), 16.0),
        "vocab": np.full(len(widths), 500.0),
        "seq_len": np.full(len(widths), 128.0),
        "lr": 0.32 / widths,
        "batch_tokens": np.full(len(widths), 512.0),
    }
    made: dict[str, Any] = {
        "run": tuple(f"w{w}-d2-t{t:g}" for w, t in zip(widths, tokens, strict=True)),
        "params": params,
        "tokens": tokens,
        "flops": per_token * tokens,
        "loss": law * np.exp(residual),
        "residual": residual,
        "cluster": widths.astype(float),
        "columns": columns,
    }
    return Points(**{**made, **given})


def plain_points() -> Points:
    """Runs of a plain table: C = 6 N D and no shapes."""
    p = make_points()
    return make_points(flops=6 * p.params * p.tokens, columns={})


def make_covariance() -> np.ndarray:
    """The covariance that least squares on these runs has, of (ln E, ln A, ln B, alpha, beta)."""
    p = make_points()
    small = THETA["A"] * p.params ** -THETA["alpha"]
    few = THETA["B"] * p.tokens ** -THETA["beta"]
    floor = np.full(len(small), THETA["E"])
    columns = [floor, small, few, -small * np.log(p.params), -few * np.log(p.tokens)]
    jacobian = np.stack(columns, axis=1) / (floor + small + few)[:, None]
    return NOISE**2 * np.linalg.inv(jacobian.T @ jacobian)


def make_fit(**given: Any) -> Fit:
    """A healthy fit by the sandwich; keyword arguments replace its fields."""
    points = given.get("points", make_points())
    rng = np.random.default_rng(0)
    offsets = rng.multivariate_normal(np.zeros(5), make_covariance(), size=400)
    theta = np.array(list(THETA.values()))
    scale = np.array([True, True, True, False, False])
    draws = np.where(scale, theta * np.exp(np.where(scale, offsets, 0)), theta + offsets)
    half = 1.73 * np.sqrt(np.diag(make_covariance()))
    made: dict[str, Any] = {
        "name": "synthetic",
        "law": "chinchilla",
        "theta": THETA,
        "exponents": {"a": 0.4783, "b": 0.5217},
        "status": "converged",
        "kappa": 61.0,
        "objective": Objective(name="log-huber", delta=0.005, value=0.0012),
        "interval": Intervals(
            level=0.9,
            method="hc3",
            quantile=1.73,
            dof=20,
            bounds={
                "E": (THETA["E"] * math.exp(-half[0]), THETA["E"] * math.exp(half[0])),
                "A": (THETA["A"] * math.exp(-half[1]), THETA["A"] * math.exp(half[1])),
                "B": (THETA["B"] * math.exp(-half[2]), THETA["B"] * math.exp(half[2])),
                "alpha": (THETA["alpha"] - half[3], THETA["alpha"] + half[3]),
                "beta": (THETA["beta"] - half[4], THETA["beta"] + half[4]),
                "a": (0.45, 0.51),
                "b": (0.49, 0.55),
            },
        ),
        "covariance": make_covariance(),
        "draws": draws,
        "noise": NOISE,
        "convention": {"params": "matmul", "flops": "exact"},
        "range": span(points),
        "points": points,
        "runs_used": len(points.run),
        "runs_dropped": (("w16-d2-t9e9", "diverged: loss above the unigram's"),),
        "notes": (Note(code="outlier", severity="warning", message="run w16-d2 lies off the law"),),
        "holdout": Holdout(
            budget=1e13,
            runs=points.run[-3:],
            predicted=tuple(points.loss[-3:] * 1.002),
            measured=tuple(points.loss[-3:]),
            mean_relative_error=0.002,
            max_relative_error=0.002,
            covered=1.0,
        ),
        "cross_checks": (
            CrossCheck(
                name="isoflop",
                a=0.49,
                a_interval=(0.40, 0.58),
                coefficient=-3.2,
                budgets=(1e12, 4e12),
                params=(6e4, 1.1e5),
                losses=(1.9, 1.75),
            ),
            CrossCheck(
                name="envelope", a=None, a_interval=None, coefficient=None, reason="too few sizes"
            ),
        ),
        "conventions": (
            {"params": "matmul", "flops": "exact", "a": 0.48, "tokens_per_param": 20.0},
            {"params": "total", "flops": "6nd", "a": 0.44, "tokens_per_param": 14.0},
        ),
        "data": {"name": "stories-demo", "hash": "sha256:12ab", "entropy": 1.09},
        "recipe": RECIPE,
        "source": {"path": "runs/synthetic", "hash": "sha256:34cd"},
        "options": {"law": "chinchilla", "loss": "adaptive", "level": 0.9, "seed": 0},
        "versions": {"isoflop": "0.1.0", "numpy": "2.0"},
    }
    return Fit(**{**made, **given})


def span(points: Points) -> dict[str, Span]:
    """The ranges of the runs."""
    columns = {
        "params": points.params,
        "tokens": points.tokens,
        "flops": points.flops,
        "tokens_per_param": points.tokens / points.params,
        "loss": points.loss,
    }
    return {k: Span(low=float(v.min()), high=float(v.max())) for k, v in columns.items()}
