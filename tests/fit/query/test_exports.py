"""Answers in other trainers' words: the same N, D and steps, and what is lost is said."""

from __future__ import annotations

import dataclasses
import json
import re
import shlex

import pytest
import yaml
from click.testing import CliRunner

from fit.allocation.scaling_law import ScalingLaw
from fit.cli.main import main
from fit.data.accounting import Shape, count_params
from fit.errors import QueryError
from fit.query.answer import answer
from fit.query.exports import TARGETS, export
from fit.query.question import Question
from tests.fit.builders import RECIPE, make_fit

RECIPES = {
    "plain": RECIPE | {"train.weight_decay": 0.1, "train.beta1": 0.9, "train.beta2": 0.99},
    "cosine": RECIPE | {"train.schedule": "cosine", "train.warmup_tokens": 5e4},
}
BUDGETS = (3e12, 1e14, 1e17)


def asked(flops=1e14, **given):
    fit = make_fit(**given)
    return answer(Question(source=ScalingLaw.from_fit(fit), flops=flops, force=True)), fit


def exported(target, flops=1e14, recipe="plain"):
    found, fit = asked(flops, recipe=RECIPES[recipe])
    return found, export(found, fit, target)


def python_values(text):
    values = {}
    exec(text, values)
    return values


def flags(text):
    words = shlex.split(text.partition("scripts.base_train")[2].replace("\\\n", ""))
    return dict(w.removeprefix("--").split("=") for w in words)


def shape_of(target, text, vocab):
    """The transformer that a trainer builds from its export, by its own rules."""
    if target == "nanogpt":
        v = python_values(text)
        return Shape(
            width=v["n_embd"], depth=v["n_layer"], heads=v["n_head"], vocab=vocab,
            head_dim=v["n_embd"] // v["n_head"], d_ff=4 * v["n_embd"], seq_len=v["block_size"],
        )  # fmt: skip
    if target == "nanochat":
        f = {k: int(v) for k, v in flags(text).items() if v.isdigit()}
        size = f["head-dim"]
        width = -(-f["depth"] * f["aspect-ratio"] // size) * size
        return Shape(
            width=width, depth=f["depth"], heads=width // size, head_dim=size, d_ff=4 * width,
            vocab=-(-vocab // 64) * 64, seq_len=f["max-seq-len"], tied=False,
        )  # fmt: skip
    if target == "litgpt":
        m = yaml.safe_load(text)["model_config"]
        return Shape(
            width=m["n_embd"], depth=m["n_layer"], heads=m["n_head"], head_dim=m["head_size"],
            d_ff=m["intermediate_size"], vocab=m["padded_vocab_size"], seq_len=m["block_size"],
            gated=m["mlp_class_name"] == "LLaMAMLP",
        )  # fmt: skip
    c = json.loads(text)
    return Shape(
        width=c["hidden_size"], depth=c["num_hidden_layers"], heads=c["num_attention_heads"],
        head_dim=c["head_dim"], d_ff=c["intermediate_size"], vocab=c["vocab_size"],
        seq_len=c["max_position_embeddings"], gated=True,
    )  # fmt: skip


def tokens_of(target, text):
    """The tokens that a trainer sees from its export."""
    if target == "nanogpt":
        v = python_values(text)
        batch = v["batch_size"] * v["gradient_accumulation_steps"] * v["block_size"]
        return v["max_iters"] * batch
    if target == "nanochat":
        f = flags(text)
        return int(f["num-iterations"]) * int(f["total-batch-size"])
    if target == "litgpt":
        return yaml.safe_load(text)["train"]["max_tokens"]
    c = json.loads(text)
    a = c["isoflop"]["training_arguments"]
    rows = a["per_device_train_batch_size"] * a["gradient_accumulation_steps"]
    return a["max_steps"] * rows * c["max_position_embeddings"]


@pytest.mark.parametrize("flops", BUDGETS)
@pytest.mark.parametrize("target", TARGETS)
def test_the_trainers_model_has_the_answers_parameters_and_tokens(target, flops):
    found, text = exported(target, flops)
    wanted = count_params(found.shape).matmul
    built = shape_of(target, text, found.shape.vocab)
    assert count_params(built).matmul == pytest.approx(wanted, rel=0.01)
    # whole steps of one batch
    assert tokens_of(target, text) == pytest.approx(found.shape_tokens, abs=found.batch_tokens)


@pytest.mark.parametrize("target", ["nanogpt", "nanochat", "litgpt"])
def test_a_shape_that_a_trainer_can_build_is_kept(target):
    found, text = exported(target)
    kept = ("width", "depth", "heads", "head_dim", "d_ff", "seq_len")
    built = shape_of(target, text, found.shape.vocab)
    assert [getattr(built, k) for k in kept] == [getattr(found.shape, k) for k in kept]


def test_gated_and_narrow_mlps_keep_the_count_everywhere():
    found, fit = asked()
    for changes in ({"gated": True, "d_ff": 300}, {"d_ff": 96}, {"head_dim": 32, "heads": 4}):
        odd = dataclasses.replace(found, shape=dataclasses.replace(found.shape, **changes))
        for target in TARGETS:
            try:
                text = export(odd, fit, target)
            except QueryError as error:  # a trainer that fixes its MLP may have no such shape
                assert target.startswith("nano") and "within 1%" in str(error)
                continue
            n = count_params(shape_of(target, text, odd.shape.vocab)).matmul
            assert n == pytest.approx(count_params(odd.shape).matmul, rel=0.01), (target, changes)


def test_the_rate_and_the_schedule_are_the_runs_own_where_the_trainer_has_them():
    found, text = exported("hf")
    a = json.loads(text)["isoflop"]["training_arguments"]
    assert a["learning_rate"] == found.lr
    assert a["lr_scheduler_type"] == "warmup_stable_decay"
    assert a["lr_scheduler_kwargs"]["num_decay_steps"] == pytest.approx(a["max_steps"] / 5, abs=1)
    n = count_params(found.shape).matmul
    batch = found.shape_tokens / a["max_steps"]
    assert a["warmup_steps"] == pytest.approx(min(n, 51_200) / batch, abs=0.5)
    nano = python_values(exported("nanogpt", recipe="cosine")[1])
    assert nano["learning_rate"] == pytest.approx(10 * nano["min_lr"])
    assert nano["warmup_iters"] == pytest.approx(5e4 / batch, abs=0.5)
    cosine = json.loads(exported("hf", recipe="cosine")[1])["isoflop"]["training_arguments"]
    assert cosine["lr_scheduler_type"] == "cosine_with_min_lr"
    lit = yaml.safe_load(exported("litgpt")[1])
    assert lit["optimizer"]["init_args"]["lr"] == pytest.approx(found.lr)
    assert lit["optimizer"]["init_args"]["betas"] == [0.9, 0.99]


@pytest.mark.parametrize(
    ("target", "said"),
    [
        ("nanogpt", "a cosine"),
        ("nanogpt", "meta.pkl"),
        ("nanochat", "Muon's"),
        ("litgpt", "GELU"),
        ("hf", "gated"),
        ("hf", "short convolution"),
    ],
)
def test_what_is_lost_is_said(target, said):
    assert said in " ".join(re.sub(r"\n# +", " ", exported(target)[1]).split())


@pytest.mark.parametrize("target", ["nanogpt", "nanochat", "litgpt"])
def test_exports_fit_eighty_columns(target):
    assert max(map(len, exported(target)[1].splitlines())) <= 80


def test_an_export_needs_a_dense_shape_and_one_rule_of_rate_and_batch():
    found, fit = asked()
    bare = dataclasses.replace(found, config=(), launch_refusal="this law has no shapes")
    mixed = dataclasses.replace(found, shape=dataclasses.replace(found.shape, experts=4, top_k=2))
    for broken, message in (
        (bare, "no shapes"),
        (mixed, "mixture of experts"),
        (dataclasses.replace(found, lr=None), "no rule of learning rate"),
    ):
        for target in TARGETS:
            with pytest.raises(QueryError, match=message):
                export(broken, fit, target)


def test_the_command_prints_an_export_and_refuses_what_has_none(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "fit.json").write_text(make_fit().to_json())
    ask = ["query", "1e14", "--fit", "fit.json"]
    good = CliRunner().invoke(main, [*ask, "--export", "hf"])
    assert json.loads(good.stdout)["model_type"] == "llama"
    both = CliRunner().invoke(main, [*ask, "--export", "hf", "--json"])
    assert (both.exit_code, both.stdout) == (2, "")
    law = CliRunner().invoke(main, ["query", "1e21", "--law", "besiroglu2024", "--export", "hf"])
    assert law.exit_code == 1 and law.stderr.count("\n") == 1


def test_an_export_says_that_the_optimiser_of_the_runs_is_lost():
    fit = make_fit(recipe={**RECIPE, "train.optimizer": "muon", "train.muon_lr": 0.02})
    found = answer(Question(source=ScalingLaw.from_fit(fit), flops=1e13))
    assert found.lr == 0.02
    assert "the optimiser muon: here AdamW" in export(found, fit, "litgpt")


def test_shared_keys_padding_and_gates_are_in_the_trainers_that_have_them():
    found, fit = asked()
    fit = dataclasses.replace(fit, recipe=fit.recipe | {"model.pad_vocab_to": 64})
    changes = {"kv_heads": 1, "gated": True, "activation": "gelu", "pad_vocab_to": 64}
    shape = dataclasses.replace(found.shape, rope_base=5e5, **changes)
    odd = dataclasses.replace(found, shape=shape)
    model = yaml.safe_load(export(odd, fit, "litgpt"))["model_config"]
    assert (model["n_query_groups"], model["mlp_class_name"]) == (1, "GemmaMLP")
    assert (model["vocab_size"], model["padded_vocab_size"]) == (500, 512)
    assert model["rope_base"] == 500_000
    config = json.loads(export(odd, fit, "hf"))
    assert (config["num_key_value_heads"], config["hidden_act"]) == (1, "gelu")
    assert (config["vocab_size"], config["rope_theta"]) == (512, 5e5)
    assert "padding is never predicted" in " ".join(config["isoflop"]["notes"])
    for target in ("nanogpt", "nanochat"):
        with pytest.raises(QueryError, match=r"share 1 of keys and values.*Export to litgpt or hf"):
            export(odd, fit, target)


@pytest.mark.parametrize(
    ("activation", "target", "said"),
    [
        ("gelu", "nanogpt", None),
        ("gelu", "nanochat", "the MLP's gelu: here relu2"),
        ("gelu", "litgpt", None),
        (None, "nanogpt", "the MLP's relu2: here gelu"),
        (None, "nanochat", None),
    ],
)
def test_another_kind_of_mlp_is_said_where_the_trainer_has_it_not(activation, target, said):
    found, fit = asked(recipe=RECIPES["plain"] | {"model.document_mask": True})
    shape = dataclasses.replace(found.shape, activation=activation)
    text = export(dataclasses.replace(found, shape=shape), fit, target)
    words = re.sub(r"\s*\n#\s*", " ", text)
    assert "positions here see across documents" in words
    if said is None:
        assert "the MLP's" not in words and "plain MLP" not in words
    else:
        assert said in words
