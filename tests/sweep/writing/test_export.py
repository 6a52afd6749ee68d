"""Exported models give our logits: by the formats' own arithmetic, and by transformers itself."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file

from fit.errors import PlanError
from sweep.app import main
from sweep.training.loop import train
from sweep.writing.export import CODE, export_model, is_standard
from sweep.writing.weights import load_run
from tests.sweep.training.test_loop import Quiet, trajectory
from tests.sweep.writing.test_generate import BASE, SEPARATOR, build

STANDARD = (
    {"conv": 0},
    {"conv": 0, "tied": False, "kv_heads": 2},
    {"conv": 0, "gated": True, "kv_heads": 1, "rope_base": 5e5},
    {"conv": 0, "gated": True, "activation": "gelu", "pad_vocab_to": 32},
    {"conv": 0, "heads": 2, "head_dim": 32},
)
OWN = (
    ({}, None),
    ({"conv": 3, "kv_heads": 2, "pad_vocab_to": 32}, SEPARATOR),
    ({"conv": 0, "activation": "gelu", "tied": False}, None),
    ({"experts": 3, "top_k": 2, "conv": 1, "rope_base": 5e5}, None),
    ({"experts": 3, "top_k": 1, "gated": True, "activation": "gelu", "conv": 0}, SEPARATOR),
)


def rows():
    tokens = torch.randint(BASE.vocab, (4, 24), generator=torch.Generator().manual_seed(3))
    tokens[:, 9] = tokens[1, 10] = SEPARATOR
    return tokens


def our_logits(model, tokens):
    with torch.no_grad():
        return (model.hidden(tokens) @ model.head.T)[..., : model.shape.vocab]


def qwen3_logits(folder, tokens):
    """The logits of a Qwen3 from its files, written down in numpy and float64."""
    c = json.loads((folder / "config.json").read_text())
    w = {k: v.astype(np.float64) for k, v in load_file(folder / "model.safetensors").items()}
    act = {
        "relu": lambda g: np.maximum(g, 0),
        "silu": lambda g: g / (1 + np.exp(-g)),
        "gelu": lambda g: torch.nn.functional.gelu(torch.from_numpy(g)).numpy(),
    }[c["hidden_act"]]
    h, g, k = c["num_attention_heads"], c["num_key_value_heads"], c["head_dim"]
    b, t = tokens.shape

    def norm(x, name):
        return x / np.sqrt((x**2).mean(-1, keepdims=True) + c["rms_norm_eps"]) * w[name]

    pair = np.arange(0, k, 2) / k
    angle = np.arange(t)[:, None] / c["rope_parameters"]["rope_theta"] ** pair
    turn = np.exp(1j * angle)[None, :, None]

    def rotate(x):
        z = (x[..., : k // 2] + 1j * x[..., k // 2 :]) * turn
        return np.concatenate([z.real, z.imag], -1)

    x = w["model.embed_tokens.weight"][tokens]
    for layer in range(c["num_hidden_layers"]):
        at = f"model.layers.{layer}."
        y = norm(x, at + "input_layernorm.weight")
        q, key, v = (
            (y @ w[f"{at}self_attn.{n}_proj.weight"].T).reshape(b, t, -1, k) for n in "qkv"
        )
        q = rotate(norm(q, at + "self_attn.q_norm.weight"))
        key = rotate(norm(key, at + "self_attn.k_norm.weight"))
        out = np.zeros((b, t, h, k))
        for head in range(h):
            own = head // (h // g)
            score = np.einsum("bik,bjk->bij", q[:, :, head], key[:, :, own]) / np.sqrt(k)
            score[:, np.triu_indices(t, 1)[0], np.triu_indices(t, 1)[1]] = -np.inf
            share = np.exp(score - score.max(-1, keepdims=True))
            share /= share.sum(-1, keepdims=True)
            out[:, :, head] = np.einsum("bij,bjk->bik", share, v[:, :, own])
        x = x + out.reshape(b, t, -1) @ w[at + "self_attn.o_proj.weight"].T
        y = norm(x, at + "post_attention_layernorm.weight")
        hidden = act(y @ w[at + "mlp.gate_proj.weight"].T) * (y @ w[at + "mlp.up_proj.weight"].T)
        x = x + hidden @ w[at + "mlp.down_proj.weight"].T
    return norm(x, "model.norm.weight") @ w["lm_head.weight"].T


@pytest.mark.parametrize("options", STANDARD)
def test_the_exported_numbers_are_a_qwen3_with_our_logits(tmp_path, options):
    model, tokens = build(options, residual=0.7), rows()
    assert is_standard(model)
    export_model(model, tmp_path / "model")
    found = qwen3_logits(tmp_path / "model", tokens.numpy())
    # Our rotary tables have the precision of float32.
    np.testing.assert_allclose(found, our_logits(model, tokens).numpy(), rtol=0, atol=1e-5)
    assert not (tmp_path / "model" / CODE).exists()


@pytest.mark.parametrize("options", STANDARD)
def test_transformers_loads_a_standard_model_with_our_logits(tmp_path, options):
    transformers = pytest.importorskip("transformers")
    model, tokens = build(options, residual=0.7).float(), rows()
    export_model(model, tmp_path / "model")
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "model")
    assert type(theirs).__name__ == "Qwen3ForCausalLM"
    with torch.no_grad():
        found = theirs(tokens).logits
    torch.testing.assert_close(found, our_logits(model, tokens), rtol=0, atol=2e-4)


@pytest.mark.parametrize("options, separator", OWN)
def test_transformers_runs_the_code_beside_any_other_model(tmp_path, options, separator):
    transformers = pytest.importorskip("transformers")
    model, tokens = build(options, separator=separator, residual=0.7), rows()
    export_model(model, tmp_path / "model")
    theirs = transformers.AutoModelForCausalLM.from_pretrained(
        tmp_path / "model", trust_remote_code=True, dtype=torch.float64
    )
    with torch.no_grad():
        found = theirs(tokens).logits
    torch.testing.assert_close(found, our_logits(model, tokens), rtol=0, atol=1e-9)
    written = theirs.generate(tokens[:1, :4], max_new_tokens=5, do_sample=False)
    assert written.shape == (1, 9)


def test_a_trained_run_is_exported_by_the_command(tmp_path, capsys):
    pytest.importorskip("transformers")
    from transformers import AutoModelForCausalLM

    planned = trajectory("train.tokens=12e3", "train.keep=weights")
    (record,) = train(planned, tmp_path, Quiet())
    run, out = str(tmp_path / "tiny" / record.run), tmp_path / "out"
    with pytest.raises(SystemExit) as ended:
        main(["export", run, str(out)])
    assert ended.value.code == 0
    assert "IsoflopForCausalLM" in capsys.readouterr().out
    _, model = load_run(run)
    tokens = torch.arange(32)[None]
    with torch.no_grad():
        found = AutoModelForCausalLM.from_pretrained(out, trust_remote_code=True)(tokens).logits
    torch.testing.assert_close(found, our_logits(model, tokens), rtol=0, atol=1e-5)


def test_a_folder_with_other_things_is_left_alone(tmp_path):
    (tmp_path / "thesis.txt").write_text("long work")
    with pytest.raises(PlanError, match="holds no exported model; name a new folder"):
        export_model(build({}), tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["thesis.txt"]
