"""Records and tables for tests."""

from __future__ import annotations

from typing import Any

from fit.data.accounting import Shape, count_flops, count_params
from fit.data.records import DataInfo, RunRecord

TRUTH = {"E": 1.7, "A": 120.0, "B": 400.0, "alpha": 0.34, "beta": 0.36}


def record(width: int = 32, tokens: int = 300_000, **changes: Any) -> RunRecord:
    """A finished run of a small transformer whose loss follows `TRUTH`."""
    shape = Shape(width=width, depth=2, heads=2, head_dim=8, d_ff=4 * width, vocab=500, seq_len=128)
    params, per_token = count_params(shape), count_flops(shape)
    loss = (
        TRUTH["E"]
        + TRUTH["A"] / params.matmul ** TRUTH["alpha"]
        + TRUTH["B"] / tokens ** TRUTH["beta"]
    )
    fields: dict[str, Any] = {
        "run": f"w{width}-t{tokens}",
        "sweep": "test",
        "status": "done",
        "seed": 0,
        "data": DataInfo(name="stories", hash="sha256:0", bytes_per_token=4.0, entropy=1.7),
        "width": width,
        "depth": 2,
        "heads": 2,
        "head_dim": 8,
        "vocab": 500,
        "seq_len": 128,
        "params_body": params.body,
        "params_head": params.head,
        "params_embedding": params.embedding,
        "params_other": params.other,
        "params_total": params.total,
        "tokens": tokens,
        "tokens_seen": tokens,
        "flops_body": per_token.body,
        "flops_head": per_token.head,
        "flops_attention": per_token.attention,
        "flops": float(per_token.exact * tokens),
        "schedule": "wsd",
        "lr": 0.01,
        "batch_tokens": 512,
        "loss": loss,
        "loss_se": 0.002,
        "trunk": f"w{width}",
        "recipe": {"data": "stories", "train.lr": 0.01},
    }
    return RunRecord(**fields | changes)
