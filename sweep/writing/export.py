"""Export of a trained model in the format of Hugging Face's transformers.

A model without convolution, document mask and experts is one of the library's own, Qwen3, which has
the same norms, rotary positions and QK-norm:

    embedding     its rows normalised, as the first norm of ours leaves them
    head          of its own, though it was tied: the embedding before the norm
    squared ReLU  as relu(g) * u with both matrices the same
    residual      the factor of each branch multiplies the branch's last matrix

Any other model is written with the code that computes it, `modeling_isoflop.py`, which the library
runs with `trust_remote_code=True`.
"""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fit.data.records import RunRecord
from fit.errors import PlanError
from fit.files import write_atomically
from sweep.model import EPS, Block, Transformer, rms_norm

CODE = "modeling_isoflop.py"
WEIGHTS = "model.safetensors"
ACTIVATIONS = {(False, None): "relu", (True, None): "silu", (True, "gelu"): "gelu"}
"""The library's activation of an MLP by (gated, activation): those that a gated MLP can express."""


def is_standard(model: Transformer) -> bool:
    """Whether the library has the model's architecture."""
    shape = model.shape
    own = shape.conv or shape.experts or model.separator is not None
    return not own and (shape.gated, shape.activation) in ACTIVATIONS


def export_model(model: Transformer, folder: Path, record: RunRecord | None = None) -> str:
    """Write a model to a folder that `transformers` loads; returns what to do with it.

    Args:
        model: On the host.
        folder: New, or one that an earlier export wrote.
        record: Of the run, named in the configuration.

    Raises:
        PlanError: The folder holds something else.
        RecordError: It cannot be written to.
    """
    from safetensors.torch import save

    config = folder / "config.json"
    if folder.exists() and (not folder.is_dir() or (any(folder.iterdir()) and not config.exists())):
        raise PlanError(f"{folder} is there and holds no exported model; name a new folder.")
    standard = is_standard(model)
    document = standard_config(model) if standard else own_config(model)
    document["dtype"] = str(model.embedding.dtype).removeprefix("torch.")
    if record is not None:
        document |= {"isoflop_run": record.run, "isoflop_data": record.data.name}
    weights = standard_weights(model) if standard else own_weights(model)
    whole = {name: w.detach().cpu().contiguous().clone() for name, w in weights.items()}
    write_atomically(folder / WEIGHTS, save(whole, {"format": "pt"}))
    if not standard:
        write_atomically(folder / CODE, Path(__file__).with_name(CODE).read_text())
    write_atomically(config, json.dumps(document, indent=1) + "\n")
    code = "" if standard else ", trust_remote_code=True"
    return (
        f"{folder}: {document['architectures'][0]}, {sum(w.numel() for w in whole.values()):,} "
        f'weights\nAutoModelForCausalLM.from_pretrained("{folder}"{code})'
    )


def standard_config(model: Transformer) -> dict[str, Any]:
    """The configuration of a Qwen3 that computes the same."""
    s = model.shape
    return {
        "architectures": ["Qwen3ForCausalLM"],
        "model_type": "qwen3",
        "vocab_size": s.vocab,
        "hidden_size": s.width,
        "intermediate_size": s.d_ff,
        "num_hidden_layers": s.depth,
        "num_attention_heads": s.heads,
        "num_key_value_heads": s.key_heads,
        "head_dim": s.head_dim,
        "hidden_act": ACTIVATIONS[s.gated, s.activation],
        "max_position_embeddings": s.seq_len,
        "rms_norm_eps": EPS,
        "rope_theta": s.rope_base,
        "rope_parameters": {"rope_type": "default", "rope_theta": s.rope_base},
        "tie_word_embeddings": False,
        "attention_bias": False,
        "use_sliding_window": False,
        "bos_token_id": None,
        "eos_token_id": None,
        "pad_token_id": None,
    }


def standard_weights(model: Transformer) -> dict[str, Tensor]:
    """The weights of that Qwen3, by its names."""
    vocab = model.shape.vocab
    out: dict[str, Tensor] = {
        "model.embed_tokens.weight": rms_norm(model.embedding.detach())[:vocab],
        "lm_head.weight": model.head[:vocab],
        "model.norm.weight": model.embedding.new_ones(model.shape.width),
    }
    for number, block in enumerate(model.blocks):
        assert isinstance(block, Block)
        size, ones = block.head_dim, model.embedding.new_ones
        rows = [block.heads * size, block.key_heads * size, block.key_heads * size]
        q, k, v = torch.split(block.qkv.detach(), rows)
        gate, up = block.up.detach().chunk(2) if block.gated else (block.up, block.up)
        layer = {
            "input_layernorm": ones(model.shape.width),
            "post_attention_layernorm": ones(model.shape.width),
            "self_attn.q_proj": q,
            "self_attn.k_proj": k,
            "self_attn.v_proj": v,
            "self_attn.q_norm": block.q_gain,
            "self_attn.k_norm": ones(size),
            "self_attn.o_proj": block.out.detach() * block.residual,
            "mlp.gate_proj": gate,
            "mlp.up_proj": up,
            "mlp.down_proj": block.down.detach() * block.residual,
        }
        out |= {f"model.layers.{number}.{name}.weight": w for name, w in layer.items()}
    return out


def own_config(model: Transformer) -> dict[str, Any]:
    """The configuration of `modeling_isoflop.IsoflopForCausalLM`."""
    block = model.blocks[0]
    assert isinstance(block, Block)
    module = CODE.removesuffix(".py")
    return {
        "architectures": ["IsoflopForCausalLM"],
        "model_type": "isoflop",
        "auto_map": {
            "AutoConfig": f"{module}.IsoflopConfig",
            "AutoModelForCausalLM": f"{module}.IsoflopForCausalLM",
        },
        "shape": dataclasses.asdict(model.shape),
        "residual": block.residual,
        "separator": model.separator,
    }


def own_weights(model: Transformer) -> dict[str, Tensor]:
    """Our weights under their names, without the rows that pad the vocabulary."""
    vocab, state = model.shape.vocab, model.state_dict()
    return state | {name: state[name][:vocab] for name in ("embedding", "head")}
