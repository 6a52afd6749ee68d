"""A transformer of isoflop for the library transformers; the export copies this file beside it.

It computes what `sweep.model` does and imports nothing of isoflop: pre-RMSNorm, rotary positions,
QK-norm, grouped queries, a causal convolution on the embeddings, an optional mask between documents
and experts. It has no cache: text is generated at the price of a whole pass for each token.
"""

import torch
import torch.nn.functional as F
from torch import nn
from transformers import GenerationMixin, PretrainedConfig, PreTrainedModel
from transformers.modeling_outputs import CausalLMOutput

EPS = 1e-6


class IsoflopConfig(PretrainedConfig):
    """Sizes of a transformer, named as in isoflop, and what the library asks for."""

    model_type = "isoflop"

    def __init__(self, shape=None, residual=1.0, separator=None, **kwargs):
        self.shape, self.residual, self.separator = shape or {}, residual, separator
        self.vocab_size = self.shape.get("vocab", 0)
        self.hidden_size = self.shape.get("width", 0)
        self.num_hidden_layers = self.shape.get("depth", 0)
        self.num_attention_heads = self.shape.get("heads", 0)
        self.max_position_embeddings = self.shape.get("seq_len", 0)
        self.use_cache = False
        kwargs["tie_word_embeddings"] = False
        super().__init__(**kwargs)


def norm(x):
    """Divide by the root mean square of the last axis."""
    return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + EPS)


class IsoflopBlock(nn.Module):
    """Attention and MLP, each on a normalised copy of the residual stream."""

    def __init__(self, s, residual):
        super().__init__()
        self.s, self.residual = s, residual
        self.groups = s["kv_heads"] or s["heads"]
        size, many = s["head_dim"], (s["experts"],) if s["experts"] else ()
        self.q_gain = nn.Parameter(torch.empty(size))
        self.qkv = nn.Parameter(torch.empty((s["heads"] + 2 * self.groups) * size, s["width"]))
        self.out = nn.Parameter(torch.empty(s["width"], s["heads"] * size))
        self.router = nn.Parameter(torch.empty(s["experts"], s["width"])) if many else None
        self.up = nn.Parameter(torch.empty(*many, (1 + s["gated"]) * s["d_ff"], s["width"]))
        self.down = nn.Parameter(torch.empty(*many, s["width"], s["d_ff"]))

    def forward(self, x, cos, sin, mask):
        """The residual stream after the block."""
        x = x + self.residual * self.attention(norm(x), cos, sin, mask)
        return x + self.residual * self.mlp(norm(x))

    def attention(self, x, cos, sin, mask):
        """Causal attention with QK-norm and rotary positions."""
        heads, size = self.s["heads"], self.s["head_dim"]
        qkv = F.linear(x, self.qkv).unflatten(-1, (-1, size)).transpose(1, 2)
        q, k, v = qkv.split([heads, self.groups, self.groups], 1)

        def rotate(h):
            return h * cos + torch.cat([-h[..., size // 2 :], h[..., : size // 2]], -1) * sin

        q, k = rotate(norm(q) * self.q_gain), rotate(norm(k))
        k, v = (h.repeat_interleave(heads // self.groups, 1) for h in (k, v))
        y = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        return F.linear(y.transpose(1, 2).flatten(2), self.out)

    def mlp(self, x):
        """The MLP, or the gated sum over each token's experts."""
        if self.router is None:
            return self.expert(x, self.up, self.down)
        share, chosen = F.linear(x, self.router).float().softmax(-1).topk(self.s["top_k"], -1)
        if self.s["top_k"] > 1:
            share = share / share.sum(-1, keepdim=True)
        y = torch.zeros_like(x)
        for number, (up, down) in enumerate(zip(self.up, self.down, strict=True)):
            gate = (share * (chosen == number)).sum(-1)
            sent = (chosen == number).any(-1)
            y[sent] += gate[sent, None].to(x.dtype) * self.expert(x[sent], up, down)
        return y

    def expert(self, x, up, down):
        """One MLP, gated or plain."""
        h = F.linear(x, up)
        gelu = self.s["activation"] == "gelu"
        if self.s["gated"]:
            gate, h = h.chunk(2, -1)
            return F.linear((F.gelu(gate) if gelu else F.silu(gate)) * h, down)
        return F.linear(F.gelu(h) if gelu else h.relu().square(), down)


class IsoflopForCausalLM(PreTrainedModel, GenerationMixin):
    """The transformer with its head."""

    config_class = IsoflopConfig
    _tied_weights_keys = None

    def __init__(self, config):
        super().__init__(config)
        s = config.shape
        self.embedding = nn.Parameter(torch.empty(s["vocab"], s["width"]))
        self.head = nn.Parameter(torch.empty(s["vocab"], s["width"]))
        self.conv = nn.Parameter(torch.empty(s["conv"], s["width"])) if s["conv"] else None
        blocks = (IsoflopBlock(s, config.residual) for _ in range(s["depth"]))
        self.blocks = nn.ModuleList(blocks)
        self.post_init()

    def _init_weights(self, module):
        """Nothing: weights are loaded."""

    def forward(self, input_ids, attention_mask=None, labels=None, **kwargs):
        """Logits of every position; without padding on the left."""
        s, separator = self.config.shape, self.config.separator
        length, size = input_ids.shape[1], s["head_dim"]
        place = torch.arange(length, device=input_ids.device)
        seen = (place[:, None] >= place)[None]
        if separator is not None:
            document = (input_ids == separator).cumsum(1)
            seen = seen & (document[:, :, None] == document[:, None])
        embedded = x = F.embedding(input_ids, self.embedding)
        for lag, tap in enumerate(() if self.conv is None else self.conv[: length - 1], 1):
            near = seen[:, lag:].diagonal(0, 1, 2) if separator is not None else seen.new_ones(1)
            before = embedded[:, :-lag] * tap * near[..., None]
            x = x + F.pad(before, (0, 0, lag, 0))
        x = norm(x)
        rates = s["rope_base"] ** (-torch.arange(size // 2, dtype=torch.float64) / (size // 2))
        angles = torch.outer(torch.arange(length, dtype=torch.float64), rates).repeat(1, 2)
        cos, sin = (f().float().to(x.device, x.dtype) for f in (angles.cos, angles.sin))
        for block in self.blocks:
            x = block(x, cos, sin, seen[:, None])
        logits = F.linear(norm(x), self.head)
        loss = None
        if labels is not None:
            loss = F.cross_entropy(logits[:, :-1].flatten(0, 1).float(), labels[:, 1:].flatten())
        return CausalLMOutput(loss=loss, logits=logits)

    def prepare_inputs_for_generation(self, input_ids, **kwargs):
        """The whole text at every step."""
        return {"input_ids": input_ids}
