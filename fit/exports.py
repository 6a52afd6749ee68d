"""An answer in other trainers' own words: nanoGPT, nanochat, litgpt, Hugging Face.

Option names are those of copies of each repository read in November 2026, no pinned release:
karpathy/nanoGPT `train.py` and `configurator.py`; karpathy/nanochat `scripts/base_train.py`;
Lightning-AI/litgpt `litgpt/config.py`, `litgpt/args.py` and `config_hub/pretrain`;
huggingface/transformers `LlamaConfig`, `TrainingArguments` and `optimization.get_wsd_schedule`.
Each export says in comments what of the answer that trainer cannot express.
"""

from __future__ import annotations

import dataclasses
import json
import textwrap
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from fit.accounting import Shape, count_params
from fit.launch import hydra_value
from fit.quantity import power, short
from fit.query import Answer
from fit.regimen import Regimen, gated_shape, launchable, plain_shape, regimen
from fit.result import Fit

WIDTH = 80


def export(answer: Answer, fit: Fit, target: str) -> str:
    """An answer as a file or command of another trainer.

    Args:
        answer: From `query.answer`, with a shape.
        fit: The fit that was asked.
        target: One of `TARGETS`.

    Raises:
        QueryError: There is no shape to export, or the trainer builds none within 5% of its N.
    """
    return TARGETS[target](answer, fit)


def nanogpt(answer: Answer, fit: Fit) -> str:
    """A config file of nanoGPT: `python train.py FILE.py`."""
    job = regimen(answer, fit, plain_shape(answer))
    s = job.shape
    lost = [
        *_schedule_lost(job),
        "rotary positions, query and key norms: nanoGPT learns positions, and has a GELU",
        f"a vocabulary: put vocab_size = {s.vocab} into the data's meta.pkl, or it takes 50304",
    ]
    values: dict[str, Any] = {
        "n_layer": s.depth,
        "n_head": s.heads,
        "n_embd": s.width,
        "block_size": s.seq_len,
        "bias": False,
        "dropout": 0.0,
        "batch_size": job.micro,
        "gradient_accumulation_steps": job.rows // job.micro,
        "max_iters": job.steps,
        "learning_rate": job.lr,
        "decay_lr": True,
        "warmup_iters": job.warmup,
        "lr_decay_iters": job.steps,
        "min_lr": job.lr / 10,
        **_named(job, weight_decay="weight_decay", beta1="beta1", beta2="beta2", clip="grad_clip"),
    }
    lines = [f"{k} = {_tidy(v)!r}" for k, v in values.items()]
    return "\n".join([*_comment(_head(answer, job, lost)), "", *lines])


def nanochat(answer: Answer, fit: Fit) -> str:
    """A command of nanochat's `scripts.base_train`."""
    shape, aspect = _aspect(plain_shape(answer))
    job = regimen(answer, fit, dataclasses.replace(shape, tied=False))
    s = job.shape
    lost = [
        f"learning rate {job.lr:.3g}: nanochat's hidden matrices are Muon's, whose rate is another "
        "quantity; its own stand",
        f"a vocabulary: nanochat takes its tokenizer's; train one of {s.vocab} tokens",
        "the shape of the schedule's descent: nanochat's is linear",
        "value embeddings and other parts that nanochat adds are not in N",
    ]
    flags: dict[str, Any] = {
        "depth": s.depth,
        "aspect-ratio": aspect,
        "head-dim": s.head_dim,
        "max-seq-len": s.seq_len,
        "window-pattern": "L",
        "num-iterations": job.steps,
        "total-batch-size": job.rows * s.seq_len,
        "device-batch-size": job.micro,
        "warmup-steps": job.warmup,
        "warmdown-ratio": round((job.cooldown or job.steps - job.warmup) / job.steps, 4),
        "final-lr-frac": 0.0 if job.cooldown else 0.1,
    }
    command = "python -m scripts.base_train " + " ".join(f"--{k}={v}" for k, v in flags.items())
    lines = textwrap.wrap(command, WIDTH - 6, break_on_hyphens=False)
    return "\n".join([*_comment(_head(answer, job, lost)), "", " \\\n    ".join(lines)])


def litgpt(answer: Answer, fit: Fit) -> str:
    """A yaml of litgpt: `litgpt pretrain --config FILE.yaml`."""
    job = regimen(answer, fit, launchable(answer))
    s = job.shape
    model = {
        "name": "isoflop",
        "hf_config": {},
        "block_size": s.seq_len,
        "vocab_size": s.vocab,
        "padded_vocab_size": s.vocab,
        "n_layer": s.depth,
        "n_head": s.heads,
        "head_size": s.head_dim,
        "n_embd": s.width,
        "intermediate_size": s.d_ff,
        "mlp_class_name": "LLaMAMLP" if s.gated else "GptNeoxMLP",
        "norm_class_name": "RMSNorm",
        "norm_qk": True,
        "rotary_percentage": 1.0,
        "parallel_residual": False,
        "bias": False,
    }
    train = {
        "global_batch_size": job.rows,
        "micro_batch_size": job.micro,
        "max_tokens": job.tokens,
        "max_seq_length": s.seq_len,
        "lr_warmup_steps": job.warmup,
        "min_lr": job.lr / 10,
        "tie_embeddings": s.tied,
        **_named(job, clip="max_norm"),
    }
    adam = {"lr": job.lr, **_named(job, weight_decay="weight_decay"), **_betas(job)}
    optimizer = {"class_path": "torch.optim.AdamW", "init_args": adam}
    lost = [*_schedule_lost(job)]
    lost += ["squared ReLU: litgpt's plain MLP has a GELU"] * (not s.gated)
    document = {"model_config": model, "train": train, "optimizer": optimizer}
    return "\n".join([*_comment(_head(answer, job, lost)), "", *_yaml(document)])


def hf(answer: Answer, fit: Fit) -> str:
    """A `config.json` of `LlamaConfig`; `isoflop` in it holds `TrainingArguments` and notes."""
    job = regimen(answer, fit, gated_shape(answer))
    s = job.shape
    wsd = {"num_decay_steps": job.cooldown, "decay_type": "1-sqrt", "min_lr_ratio": 0.0}
    cosine = {"min_lr_rate": 0.1}
    arguments = {
        "max_steps": job.steps,
        "per_device_train_batch_size": job.micro,
        "gradient_accumulation_steps": job.rows // job.micro,
        "learning_rate": job.lr,
        **_named(
            job, weight_decay="weight_decay", beta1="adam_beta1", beta2="adam_beta2",
            clip="max_grad_norm",
        ),
        "warmup_steps": job.warmup,
        "lr_scheduler_type": "warmup_stable_decay" if job.cooldown else "cosine_with_min_lr",
        "lr_scheduler_kwargs": wsd if job.cooldown else cosine,
    }  # fmt: skip
    lost = ["query and key norms"]
    lost += ["the plain MLP: LLaMA's is gated, its units chosen so that N agrees"] * (
        not launchable(answer).gated
    )
    document = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "vocab_size": s.vocab,
        "hidden_size": s.width,
        "intermediate_size": s.d_ff,
        "num_hidden_layers": s.depth,
        "num_attention_heads": s.heads,
        "num_key_value_heads": s.heads,
        "head_dim": s.head_dim,
        "hidden_act": "silu",
        "max_position_embeddings": s.seq_len,
        "tie_word_embeddings": s.tied,
        "attention_bias": False,
        "mlp_bias": False,
        "isoflop": {"notes": _head(answer, job, lost), "training_arguments": arguments},
    }
    return json.dumps(document, indent=2, allow_nan=False)


TARGETS: Mapping[str, Callable[[Answer, Fit], str]] = {
    "nanogpt": nanogpt,
    "nanochat": nanochat,
    "litgpt": litgpt,
    "hf": hf,
}
"""Trainers by the name that asks for them."""


def _head(answer: Answer, job: Regimen, lost: Sequence[str]) -> list[str]:
    """What is exported, what it should reach, and what is left out."""
    n, loss = count_params(launchable(answer)).matmul, answer.shape_loss
    assert loss is not None
    return [
        f"isoflop: {power(answer.flops.value)} FLOP by {answer.source}: {short(job.params)} "
        f"parameters (body and head; {job.params / n - 1:+.1%} of the answer's) on "
        f"{short(job.tokens)} tokens.",
        f"Expected loss {loss:.4f} nats/token, with the runs' own data, tokenizer and recipe.",
        "Not expressed here:",
        *(f"- {text}" for text in (*job.changed, *lost)),
    ]


def _schedule_lost(job: Regimen) -> Iterable[str]:
    """What a trainer that knows a cosine alone says of the runs' schedule."""
    if job.cooldown:
        yield f"the schedule, constant with a 1 - sqrt cooldown over {job.cooldown} steps: a cosine"


def _aspect(shape: Shape) -> tuple[Shape, int]:
    """The shape that nanochat builds, and its aspect ratio: width = depth * ratio, rounded up."""
    q = shape.head_dim
    ratios = {shape.width // shape.depth, -(-shape.width // shape.depth)} - {0}
    heads, ratio = min(
        ((-(-shape.depth * r // q), r) for r in ratios), key=lambda t: abs(t[0] - shape.heads)
    )
    width = heads * q
    return dataclasses.replace(shape, width=width, heads=heads, d_ff=4 * width), ratio


def _named(job: Regimen, **names: str) -> dict[str, Any]:
    """Settings that the runs share, under the trainer's names."""
    return {theirs: job.settings[ours] for ours, theirs in names.items() if ours in job.settings}


def _betas(job: Regimen) -> dict[str, list[float]]:
    """Adam's betas as a pair, where both are known."""
    pair = [job.settings[b] for b in ("beta1", "beta2") if b in job.settings]
    return {"betas": pair} if len(pair) == 2 else {}


def _tidy(value: Any) -> Any:
    """A number without the last digits of its arithmetic."""
    return float(f"{value:.10g}") if isinstance(value, float) else value


def _comment(lines: Iterable[str]) -> list[str]:
    """Wrapped comments."""
    rows = []
    for line in lines:
        later = "#   " if line.startswith("-") else "# "
        rows += textwrap.wrap(line, WIDTH, initial_indent="# ", subsequent_indent=later)
    return rows


def _yaml(document: Mapping[str, Any], indent: str = "") -> list[str]:
    """Plain yaml of nested mappings, lists and scalars."""
    rows = []
    for key, value in document.items():
        if isinstance(value, Mapping) and value:
            rows += [f"{indent}{key}:", *_yaml(value, f"{indent}  ")]
        elif isinstance(value, Mapping):
            rows.append(f"{indent}{key}: {{}}")
        else:
            rows.append(f"{indent}{key}: {_scalar(value)}")
    return rows


def _scalar(value: Any) -> str:
    """A scalar or a list as yaml reads it; a float keeps its point, or yaml 1.1 takes a string."""
    if isinstance(value, list):
        return f"[{', '.join(_scalar(v) for v in value)}]"
    text = hydra_value(_tidy(value))
    mantissa, e, exponent = text.partition("e")
    pointed = mantissa if "." in mantissa else f"{mantissa}.0"
    return f"{pointed}e{exponent}" if e and isinstance(value, float) else text
