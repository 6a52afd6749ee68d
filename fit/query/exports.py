"""An answer as a config of another trainer: nanoGPT, nanochat, litgpt, Hugging Face.

Option names are those of copies of each repository read in November 2026, no pinned release:
karpathy/nanoGPT `train.py` and `configurator.py`; karpathy/nanochat `scripts/base_train.py`;
Lightning-AI/litgpt `litgpt/config.py`, `litgpt/args.py` and `config_hub/pretrain`;
huggingface/transformers `LlamaConfig`, `TrainingArguments` and `optimization.get_wsd_schedule`.

The runs' batch grows with the tokens seen, they cool down as 1 - sqrt and count tokens; other
trainers have one batch size and count steps, and some build other shapes. Each export lists in
comments what of the answer its trainer cannot express.
"""

from __future__ import annotations

import dataclasses
import json
import math
import textwrap
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from fit.data.accounting import ROPE_BASE, Shape, count_params
from fit.data.schedule import rate_decay, warmup_tokens, whole_recipe
from fit.errors import QueryError
from fit.quantities import power, short
from fit.query.documents import Answer
from fit.query.launch import hydra_value
from fit.results import Fit, loss_unit

CLOSE = 0.01
"""Largest relative difference between the answer's N and the exported one."""
MOST_ROWS = 64
"""Sequences in one forward pass at most; the rest of a batch is accumulated."""
NEAR = 6
"""Widths, in heads, and depths tried on either side, where a trainer ties them to each other."""
PADDED = 64
"""nanochat pads its vocabulary to a multiple of this."""
WIDTH = 80
"""Characters of a line of comments."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainerConfig:
    """A run in the architecture of another trainer: shape, batch, steps and learning rate."""

    shape: Shape
    """In the trainer's architecture."""
    params: int
    """Body and head of that shape."""
    rows: int
    """Sequences per step."""
    steps: int
    warmup: int
    """Steps."""
    cooldown: int
    """Steps; 0 where the runs' schedule is a cosine."""
    lr: float
    """Rate of the hidden matrices before the cooldown."""
    settings: Mapping[str, Any]
    """weight_decay, beta1, beta2 and clip, where the runs share them."""
    changed: tuple[str, ...]
    """Rules of the runs' recipe that no trainer with one batch size has."""

    @property
    def micro(self) -> int:
        """Sequences in one forward pass: a divisor of `rows`."""
        return max(n for n in range(1, min(self.rows, MOST_ROWS) + 1) if self.rows % n == 0)

    @property
    def tokens(self) -> int:
        """Tokens of all steps."""
        return self.steps * self.rows * self.shape.seq_len


def trainer_config(answer: Answer, fit: Fit, shape: Shape) -> TrainerConfig:
    """An answer's run in a trainer's architecture.

    Args:
        answer: An answer that may be launched.
        fit: The fit that answered; its recipe is that of its runs.
        shape: The trainer's shape for the answer.

    Raises:
        QueryError: The runs share no learning rate or batch, or N is off by more than 1%.
    """
    n, exported = count_params(launchable(answer)).matmul, count_params(shape).matmul
    if abs(exported / n - 1) > CLOSE:
        raise QueryError(
            f"this trainer's nearest shape has {exported} parameters, the answer's has {n}; within "
            "1% is needed. Export to hf, which sets the MLP freely."
        )
    if answer.lr is None or answer.batch_tokens is None or answer.shape_tokens is None:
        raise QueryError(
            "the fitted runs share no rule of learning rate and batch; an export needs both. Fit "
            "runs of one recipe."
        )
    recipe, tokens = fit.recipe, answer.shape_tokens
    known = whole_recipe(recipe)
    rows = max(1, round(answer.batch_tokens / shape.seq_len))
    steps = max(1, round(tokens / (rows * shape.seq_len)))
    warmup = warmup_tokens(
        n, int(recipe.get("train.batch_tokens", tokens)), tokens, recipe.get("train.warmup_tokens")
    )
    cosine = recipe.get("train.schedule") == "cosine"
    names = ("weight_decay", "beta1", "beta2", "clip")
    return TrainerConfig(
        shape=shape,
        params=exported,
        rows=rows,
        steps=steps,
        warmup=round(steps * warmup / tokens),
        cooldown=0 if cosine else round(steps * float(recipe.get("train.cooldown", 0.2))),
        lr=answer.lr
        * rate_decay(
            tokens, known.get("train.lr_decay_from", tokens), known["train.lr_decay_power"]
        ),
        settings={k: v for k in names if (v := recipe.get(f"train.{k}")) is not None},
        changed=tuple(_changed(recipe)),
    )


def launchable(answer: Answer) -> Shape:
    """The answer's shape, of an answer that may be launched.

    Raises:
        QueryError: Launching is refused, or the shape is a mixture of experts.
    """
    if answer.launch_refusal is not None:
        raise QueryError(answer.launch_refusal)
    assert answer.shape is not None
    if answer.shape.experts:
        raise QueryError(
            "the answer is a mixture of experts; exports are of dense models. Use --config."
        )
    return answer.shape


def plain_shape(answer: Answer) -> Shape:
    """The nearest shape with a plain MLP of four times the width, its heads filling the width.

    Of the widths near the answer's, each at the depth that meets N best, the one nearest in N. A
    difference in ln N counts ten times more than one in ln depth.

    Raises:
        QueryError: Launching is refused, or heads share keys and values.
    """
    old = launchable(answer)
    if old.kv_heads is not None:
        raise QueryError(
            f"the answer's {old.heads} heads share {old.kv_heads} of keys and values, and this "
            "trainer gives every head its own. Export to litgpt or hf."
        )
    n = count_params(old).matmul
    heads_near = max(1, old.width // old.head_dim)
    # The answer's own width comes first and wins a tie.
    steps = [0, *(sign * step for step in range(1, NEAR + 1) for sign in (-1, 1))]
    best, least = None, math.inf
    for heads in (heads_near + step for step in steps if heads_near + step >= 1):
        width = heads * old.head_dim
        one = dataclasses.replace(
            old, width=width, depth=1, heads=heads, d_ff=4 * width, gated=False
        )
        blocks = (n - one.vocab_rows * width) / count_params(one).body
        shape = dataclasses.replace(one, depth=max(1, round(blocks)))
        distance = abs(math.log(count_params(shape).matmul / n))
        distance += 0.1 * abs(math.log(shape.depth / old.depth))
        if distance < least:
            best, least = shape, distance
    assert best is not None
    return best


def gated_shape(answer: Answer) -> Shape:
    """The answer's shape with a gated MLP, whose hidden units are chosen so that N agrees.

    Three matrices in place of two take two thirds of the units; from 400 units up they are a
    multiple of 8, which moves N by less than 1%.
    """
    old = launchable(answer)
    if old.gated:
        return old
    units = old.d_ff * 2 / 3
    step = 8 if units >= 400 else 1
    return dataclasses.replace(
        old, gated=True, activation=None, d_ff=max(1, round(units / step) * step)
    )


def _changed(recipe: Mapping[str, Any]) -> Iterable[str]:
    """Rules of the runs' recipe that a trainer with one batch and one rate does not have."""
    if recipe.get("train.batch_doublings") or recipe.get("train.batch_at_1m"):
        first = recipe.get("train.batch_tokens")
        yield f"the runs' batch, which grows along the run from {first} tokens: here its last one"
    if recipe.get("train.lr_decay_power"):
        yield "the hidden matrices' rate, which falls slowly along the run: here its last one"
    if recipe.get("train.optimizer"):
        yield f"the optimiser {recipe['train.optimizer']}: here AdamW, whose rate has to be tuned"
    if recipe.get("train.embedding_lr"):
        yield "a separate learning rate for embedding and head"
    if recipe.get("train.z_loss"):
        yield f"z-loss {recipe['train.z_loss']}"
    if recipe.get("model.conv"):
        yield "the short convolution on the embeddings"
    if recipe.get("model.document_mask"):
        yield "the document mask: positions here see across documents"
    if recipe.get("model.pad_vocab_to"):
        yield "that the vocabulary's padding is never predicted: here it is part of the softmax"


def _mlp_lost(answer: Answer, theirs: str) -> Iterable[str]:
    """The loss of the answer's MLP in a trainer that has another: gelu or relu2."""
    shape = launchable(answer)
    if shape.gated:
        yield f"the gated MLP: here a plain one ({theirs}), width and depth chosen so that N agrees"
    elif (shape.activation or "relu2") != theirs:
        yield f"the MLP's {shape.activation or 'relu2'}: here {theirs}"


def export(answer: Answer, fit: Fit, target: str) -> str:
    """An answer as a file or command of another trainer.

    Args:
        answer: An answer that may be launched.
        fit: The fit that answered.
        target: One of `TARGETS`.

    Raises:
        QueryError: Launching is refused, or the trainer builds no shape within 1% of its N.
    """
    return TARGETS[target](answer, fit)


def nanogpt(answer: Answer, fit: Fit) -> str:
    """A config file of nanoGPT: `python train.py FILE.py`."""
    job = trainer_config(answer, fit, plain_shape(answer))
    s = job.shape
    lost = [
        *_schedule_lost(job),
        *_mlp_lost(answer, "gelu"),
        "rotary positions, query and key norms: nanoGPT learns positions",
        f"a vocabulary: put vocab_size = {s.vocab_rows} into the data's meta.pkl, or it takes "
        "50304",
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
    shape, aspect = _nanochat_shape(answer)
    job = trainer_config(answer, fit, shape)
    s = job.shape
    lost = [
        f"learning rate {job.lr:.3g}: nanochat's hidden matrices are Muon's, whose rate is another "
        "quantity; nanochat's defaults stay",
        f"a vocabulary: nanochat takes its tokenizer's; train one of {launchable(answer).vocab} "
        f"tokens, which it pads to {s.vocab}",
        "the shape of the schedule's descent: nanochat's is linear",
        "value embeddings and other parts that nanochat adds are not in N",
        *_mlp_lost(answer, "relu2"),
    ]
    if s.rope_base != ROPE_BASE:
        lost.append(f"the base {s.rope_base:g} of the rotary angles: nanochat's stays")
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
    job = trainer_config(answer, fit, launchable(answer))
    s = job.shape
    model = {
        "name": "isoflop",
        "hf_config": {},
        "block_size": s.seq_len,
        "vocab_size": s.vocab,
        "padded_vocab_size": s.vocab_rows,
        "n_layer": s.depth,
        "n_head": s.heads,
        "head_size": s.head_dim,
        "n_embd": s.width,
        "intermediate_size": s.d_ff,
        "mlp_class_name": _litgpt_mlp(s),
        "norm_class_name": "RMSNorm",
        "norm_qk": True,
        "rotary_percentage": 1.0,
        "parallel_residual": False,
        "bias": False,
    }
    if s.kv_heads is not None:
        model["n_query_groups"] = s.kv_heads
    if s.rope_base != ROPE_BASE:
        model["rope_base"] = round(s.rope_base)
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
    plain = not s.gated and s.activation is None
    lost += ["squared ReLU: litgpt's plain MLP has a GELU"] * plain
    document = {"model_name": "isoflop", "model_config": model, "train": train}
    document |= {"optimizer": optimizer}
    return "\n".join([*_comment(_head(answer, job, lost)), "", *_yaml(document)])


def _litgpt_mlp(shape: Shape) -> str:
    """Class of the MLP in litgpt."""
    if not shape.gated:
        return "GptNeoxMLP"
    return "LLaMAMLP" if shape.activation is None else "GemmaMLP"


def hf(answer: Answer, fit: Fit) -> str:
    """A `config.json` of `LlamaConfig`; `isoflop` in it holds `TrainingArguments` and notes."""
    job = trainer_config(answer, fit, gated_shape(answer))
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
        "vocab_size": s.vocab_rows,
        "hidden_size": s.width,
        "intermediate_size": s.d_ff,
        "num_hidden_layers": s.depth,
        "num_attention_heads": s.heads,
        "num_key_value_heads": s.key_heads,
        "head_dim": s.head_dim,
        "hidden_act": s.activation or "silu",
        "max_position_embeddings": s.seq_len,
        "tie_word_embeddings": s.tied,
        "attention_bias": False,
        "mlp_bias": False,
        "isoflop": {"notes": _head(answer, job, lost), "training_arguments": arguments},
    }
    if s.rope_base != ROPE_BASE:
        document["rope_theta"] = s.rope_base
    return json.dumps(document, indent=2, allow_nan=False)


TARGETS: Mapping[str, Callable[[Answer, Fit], str]] = {
    "nanogpt": nanogpt,
    "nanochat": nanochat,
    "litgpt": litgpt,
    "hf": hf,
}
"""Functions that export to each trainer, by its name."""


def _head(answer: Answer, job: TrainerConfig, lost: Sequence[str]) -> list[str]:
    """Lines that say what is exported, its expected loss, and what is left out."""
    n, loss = count_params(launchable(answer)).matmul, answer.shape_loss
    assert loss is not None
    return [
        f"isoflop: {power(answer.flops.value)} FLOP by {answer.source}: {short(job.params)} "
        f"parameters (body and head; {job.params / n - 1:+.1%} of the answer's) on "
        f"{short(job.tokens)} tokens.",
        f"Expected loss {loss:.4f} {loss_unit(answer.convention)}, with the runs' own data, "
        "tokenizer and recipe.",
        "Not expressed here:",
        *(f"- {text}" for text in (*job.changed, *lost)),
    ]


def _schedule_lost(job: TrainerConfig) -> Iterable[str]:
    """The loss of the runs' schedule in a trainer that has a cosine alone."""
    if job.cooldown:
        yield f"the schedule, constant with a 1 - sqrt cooldown over {job.cooldown} steps: a cosine"


def _nanochat_shape(answer: Answer) -> tuple[Shape, int]:
    """The shape that nanochat builds nearest to an answer's, and its aspect ratio.

    Its width is depth times a whole ratio, rounded up to whole heads, and its vocabulary is padded
    to a multiple of 64. As in `plain_shape` N counts ten times more than the depth.
    """
    old = plain_shape(answer)
    n, q, width = count_params(launchable(answer)).matmul, old.head_dim, old.width
    best, least = (old, 1), math.inf
    for depth in range(max(1, old.depth - NEAR), old.depth + NEAR + 1):
        for ratio in {max(1, width // depth + step) for step in (-1, 0, 1, 2)}:
            heads = -(-depth * ratio // q)
            shape = dataclasses.replace(
                old, depth=depth, heads=heads, width=heads * q, d_ff=4 * heads * q, tied=False,
                vocab=-(-old.vocab // PADDED) * PADDED, pad_vocab_to=0,
            )  # fmt: skip
            distance = abs(math.log(count_params(shape).matmul / n))
            distance += 0.1 * abs(math.log(depth / old.depth))
            if distance < least:
                best, least = (shape, ratio), distance
    return best


def _named(job: TrainerConfig, **names: str) -> dict[str, Any]:
    """Settings that the runs share, under the names of the trainer."""
    return {theirs: job.settings[ours] for ours, theirs in names.items() if ours in job.settings}


def _betas(job: TrainerConfig) -> dict[str, list[float]]:
    """Adam's betas as a pair, where the runs share both."""
    pair = [job.settings[b] for b in ("beta1", "beta2") if b in job.settings]
    return {"betas": pair} if len(pair) == 2 else {}


def _tidy(value: Any) -> Any:
    """A number rounded to ten digits, without the rounding errors of its arithmetic."""
    return float(f"{value:.10g}") if isinstance(value, float) else value


def _comment(lines: Iterable[str]) -> list[str]:
    """Wrapped comments."""
    rows = []
    # yaml ends a comment at characters that are no line break elsewhere, such as U+2028.
    for line in ("".join(c if c.isprintable() else " " for c in text) for text in lines):
        later = "#   " if line.startswith("-") else "# "
        rows += textwrap.wrap(line, WIDTH, initial_indent="# ", subsequent_indent=later)
    return rows


def _yaml(document: Mapping[str, Any], indent: str = "") -> list[str]:
    """Lines of yaml of nested mappings, lists and scalars."""
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
    """A scalar or list in yaml; a float keeps its point, which yaml 1.1 needs to read no string."""
    if isinstance(value, list):
        return f"[{', '.join(_scalar(v) for v in value)}]"
    text = hydra_value(_tidy(value))
    mantissa, e, exponent = text.partition("e")
    pointed = mantissa if "." in mantissa else f"{mantissa}.0"
    return f"{pointed}e{exponent}" if e and isinstance(value, float) else text
