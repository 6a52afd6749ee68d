"""The final held-out loss, its standard error, its split over skills, and bits per byte."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from fit.record import DataInfo
from sweep.data import Heldout
from sweep.model import Transformer
from sweep.parallel import gather_rows

CHUNK_TOKENS = 4096
"""Tokens per forward pass: the logits of a vocabulary of 500 stay inside a 8 MB cache."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Measurement:
    """Held-out loss of a model [nats/token]."""

    loss: float
    """Known entropy plus mean excess where the data know it, else the plain mean."""
    loss_se: float
    """Standard error over held-out rows; with known entropy only of the paired excess."""
    loss_plain: float
    loss_bpb: float | None
    loss_by_skill: Mapping[str, float] | None


def measure(model: Transformer, heldout: Heldout, info: DataInfo, fabric: Any) -> Measurement:
    """Measure a model on the whole held-out sample.

    Where the ideal loss of every token is known, the sample's own entropy noise cancels in the
    paired difference to it, and the exact expectation is added back.
    """
    losses = token_losses(model, heldout.rows, fabric)
    plain = float(losses.mean())
    excess = losses if heldout.ideal is None else losses - heldout.ideal
    base = 0.0 if heldout.ideal is None else _known(info.entropy)
    rows = excess.mean(axis=1)
    loss = base + float(rows.mean())
    per_byte = info.bytes_per_token
    return Measurement(
        loss=loss,
        loss_se=float(rows.std(ddof=1) / math.sqrt(len(rows))) if len(rows) > 1 else math.nan,
        loss_plain=plain,
        loss_bpb=None if per_byte is None else loss / math.log(2) / per_byte,
        loss_by_skill=_by_skill(excess, heldout, info),
    )


def token_losses(model: Transformer, rows: NDArray[np.int32], fabric: Any) -> NDArray[np.float64]:
    """Negative log-likelihood of every target token, (rows, seq_len) [nats], shared by the ranks.

    A sharded model is run by all ranks together, so each takes as many chunks as the others.
    """
    ranks, length = fabric.world_size, rows.shape[1] - 1
    step = max(1, CHUNK_TOKENS // length)
    most = -(-len(rows) // ranks)
    own = np.resize(rows[fabric.global_rank :: ranks], (most, length + 1))
    out = torch.empty(most, length, dtype=torch.float64)
    with torch.no_grad():
        for start in range(0, most, step):
            chunk = torch.from_numpy(own[start : start + step].astype(np.int64)).to(fabric.device)
            out[start : start + step] = model.token_losses(chunk[:, :-1], chunk[:, 1:]).cpu()
    return gather_rows(fabric, out, len(rows)).numpy()


def _by_skill(
    excess: NDArray[np.float64], heldout: Heldout, info: DataInfo
) -> dict[str, float] | None:
    """Each skill's share of the loss; the shares sum to it."""
    if heldout.skill is None:
        return None
    sums = np.bincount(heldout.skill.ravel(), excess.ravel(), minlength=len(heldout.skills))
    known = info.entropy_by_skill or {}
    return {
        name: known.get(name, 0.0) + float(total) / excess.size
        for name, total in zip(heldout.skills, sums, strict=True)
    }


def _known(entropy: float | None) -> float:
    """The entropy of data whose ideal losses are known."""
    assert entropy is not None, "a source with ideal losses knows its entropy"
    return entropy
