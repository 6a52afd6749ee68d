"""Exports read by the trainers that they name, and the models those build.

litgpt and transformers are installed by `make test-exports`; nanoGPT and nanochat are no packages,
so their option names and shapes stand here as facts, each with the commit that they were read at.
"""

from __future__ import annotations

import argparse
import ast
import dataclasses
import json
import math
import re
import shlex

import pytest

from fit.allocation.scaling_law import ScalingLaw
from fit.data.accounting import Shape, count_params
from fit.errors import QueryError
from fit.query.answer import answer, query
from fit.query.exports import export
from fit.query.question import Question
from tests.fit.builders import RECIPE, make_fit

NANOGPT = "3adf61e154c3fe3fca428ad6bc3818b27a3b8291"
"""karpathy/nanoGPT, November 2025: the names that train.py lets a config file set."""
NANOGPT_OPTIONS = (
    "out_dir eval_interval log_interval eval_iters eval_only always_save_checkpoint init_from "
    "wandb_log wandb_project wandb_run_name dataset gradient_accumulation_steps batch_size "
    "block_size n_layer n_head n_embd dropout bias learning_rate max_iters weight_decay beta1 "
    "beta2 grad_clip decay_lr warmup_iters lr_decay_iters min_lr backend device dtype compile"
).split()
NANOCHAT = "92d63d4e8bb4df75c3b71618f31ddde2378b2bcd"
"""karpathy/nanochat, July 2026: options of scripts/base_train.py and their types."""
NANOCHAT_OPTIONS = {
    "depth": int, "aspect-ratio": int, "head-dim": int, "max-seq-len": int, "window-pattern": str,
    "num-iterations": int, "target-flops": float, "target-param-data-ratio": float,
    "device-batch-size": int, "total-batch-size": int, "embedding-lr": float,
    "unembedding-lr": float, "weight-decay": float, "matrix-lr": float, "scalar-lr": float,
    "warmup-steps": int, "warmdown-ratio": float, "final-lr-frac": float, "run": str,
}  # fmt: skip
EXACT = RECIPE | {"train.weight_decay": 0.1, "train.beta1": 0.9, "train.beta2": 0.99}
COSINE = EXACT | {"train.schedule": "cosine", "train.warmup_tokens": 5e4, "train.clip": 1.0}
BILLIONS = query("besiroglu2024", 1e22).params.value
"""N of a published law at a budget of its scale."""


def asked(flops, recipe):
    fit = make_fit(recipe=recipe)
    return answer(Question(source=ScalingLaw.from_fit(fit), flops=flops, force=True)), fit


def resized(found, fit, params):
    """An answer whose shape is the ladder's nearest to a number of parameters."""
    shape = ScalingLaw.from_fit(fit).ladder.nearest(params, lambda s: True)
    return dataclasses.replace(found, shape=shape, shape_params=params)


CASES = {
    "smallest": (3e12, EXACT, {}),
    "reference": (1e14, EXACT, {}),
    "cosine": (1e14, COSINE, {}),
    "bare recipe": (1e14, {k: v for k, v in RECIPE.items() if k != "train.clip"}, {}),
    "larger": (1e17, EXACT, {}),
    "gated": (1e17, EXACT, {"gated": True, "d_ff": 1064}),
    "narrow MLP": (1e17, EXACT, {"d_ff": 1066}),
    "billions": (1e17, EXACT, None),
}


def case(name):
    flops, recipe, changes = CASES[name]
    found, fit = asked(flops, recipe)
    if changes is None:
        return resized(found, fit, BILLIONS), fit
    return dataclasses.replace(found, shape=dataclasses.replace(found.shape, **changes)), fit


def wanted(found):
    return count_params(found.shape).matmul


@pytest.mark.parametrize("name", CASES)
def test_nanogpt_knows_every_option_and_builds_the_answers_n(name):
    found, fit = case(name)
    config = {
        line.split(" = ")[0]: ast.literal_eval(line.split(" = ")[1])
        for line in export(found, fit, "nanogpt").splitlines()
        if " = " in line and not line.startswith("#")
    }
    assert config.keys() <= set(NANOGPT_OPTIONS)
    width = config["n_embd"]
    assert width % config["n_head"] == 0
    # model.py: c_attn 3 w^2, c_proj w^2, mlp 8 w^2, the head tied to wte
    built = 12 * width**2 * config["n_layer"] + found.shape.vocab * width
    assert built == pytest.approx(wanted(found), rel=0.01)


@pytest.mark.parametrize("name", CASES)
def test_nanochat_parses_every_option_and_builds_the_answers_n(name):
    found, fit = case(name)
    command = export(found, fit, "nanochat").partition("scripts.base_train")[2]
    parser = argparse.ArgumentParser(exit_on_error=False)
    for option, kind in NANOCHAT_OPTIONS.items():
        parser.add_argument(f"--{option}", type=kind)
    f = parser.parse_args(shlex.split(command.replace("\\\n", "")))
    # base_train.py: build_model_meta; gpt.py: GPT pads the vocabulary, ve_gate in every other block
    width = -(-f.depth * f.aspect_ratio // f.head_dim) * f.head_dim
    heads, vocab = width // f.head_dim, -(-found.shape.vocab // 64) * 64
    gates = 12 * heads * math.ceil(f.depth / 2)
    built = 12 * width**2 * f.depth + gates + vocab * width
    assert built == pytest.approx(wanted(found), rel=0.01)
    assert f.total_batch_size % (f.device_batch_size * f.max_seq_len) == 0


def litgpt_config(path):
    """What `litgpt pretrain --config` reads."""
    from jsonargparse import ArgumentParser, set_docstring_parse_options
    from litgpt.pretrain import setup

    set_docstring_parse_options(attribute_docstrings=True)
    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--config", action="config")
    parser.add_function_arguments(setup)
    return parser.instantiate_classes(parser.parse_args(["--config", str(path)]))


def matrices(model):
    """Parameters of the matrices of a model and its head, counted once where it is tied."""
    return sum(
        p.numel()
        for n, p in model.named_parameters()
        if p.ndim == 2 and not re.search(r"wte|embed_tokens", n)
    )


@pytest.mark.exports
@pytest.mark.filterwarnings("ignore")  # the trainers' own
@pytest.mark.parametrize("name", CASES)
def test_litgpt_loads_its_export_and_builds_the_answers_n(name, tmp_path):
    import torch
    from litgpt.model import GPT
    from litgpt.pretrain import validate_args
    from litgpt.utils import instantiate_torch_optimizer

    found, fit = case(name)
    (tmp_path / "x.yaml").write_text(export(found, fit, "litgpt"))
    c = litgpt_config(tmp_path / "x.yaml")
    validate_args(c.train, c.eval, None, False)
    with torch.device("meta"):
        model = GPT(c.model_config)
        if c.train.tie_embeddings:
            model.transformer.wte.weight = model.lm_head.weight
        optimizer = instantiate_torch_optimizer(c.optimizer, model.parameters())
    built = sum(p.numel() for n, p in model.named_parameters() if p.ndim == 2)
    assert built == pytest.approx(wanted(found), rel=0.01)
    assert optimizer.defaults["lr"] == pytest.approx(found.lr)
    assert c.train.global_batch_size % c.train.micro_batch_size == 0


@pytest.mark.exports
@pytest.mark.filterwarnings("ignore")  # the trainers' own
@pytest.mark.parametrize("name", CASES)
def test_transformers_loads_its_export_and_builds_the_answers_n(name, tmp_path):
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM, TrainingArguments, get_scheduler

    found, fit = case(name)
    (tmp_path / "config.json").write_text(export(found, fit, "hf"))
    config = AutoConfig.from_pretrained(tmp_path)
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
        model.tie_weights()
    head = 0 if config.tie_word_embeddings is False else config.vocab_size * config.hidden_size
    assert matrices(model) + head == pytest.approx(wanted(found), rel=0.01)
    arguments = json.loads((tmp_path / "config.json").read_text())["isoflop"]["training_arguments"]
    known = {f.name for f in dataclasses.fields(TrainingArguments)}
    assert arguments.keys() <= known
    optimizer = torch.optim.AdamW([torch.nn.Parameter(torch.zeros(1))], arguments["learning_rate"])
    steps, warmup = arguments["max_steps"], arguments["warmup_steps"]
    extra = arguments["lr_scheduler_kwargs"]
    scheduler = get_scheduler(
        arguments["lr_scheduler_type"], optimizer, warmup, steps, scheduler_specific_kwargs=extra
    )
    rate = scheduler.lr_lambdas[0]
    assert rate(warmup) == pytest.approx(1.0) and rate(0) < 0.01
    assert rate(steps - 1) < 0.11


def test_a_shape_that_a_trainer_cannot_come_near_is_refused():
    found, fit = asked(1e14, EXACT)
    odd = dataclasses.replace(found, shape=dataclasses.replace(found.shape, d_ff=96))
    for target in ("nanogpt", "nanochat"):
        with pytest.raises(QueryError, match="within 1% is needed. Export to hf"):
            export(odd, fit, target)
    for target in ("litgpt", "hf"):
        assert export(odd, fit, target)


def test_the_shapes_of_the_cases_are_of_the_ladder_and_of_the_published_scale():
    found, fit = case("billions")
    assert 1e9 < BILLIONS < 1e11
    assert wanted(found) == pytest.approx(BILLIONS, rel=0.05)
    assert isinstance(found.shape, Shape)
