"""The yardstick: a plain eager PyTorch loop over a plain GPT, as one writes it in an afternoon.

LayerNorm, GELU, learned positions, biases, tied head, AdamW. Run as a process of its own:
`python -m tests.bench.plain WIDTH DEPTH HEAD_DIM ROWS SEQ_LEN VOCAB SECONDS` prints tokens/s
by processor time.
"""

import sys
import time

import torch
import torch.nn.functional as F
from torch import nn


class Block(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x):
        b, t, d = x.shape
        q, k, v = self.qkv(self.norm1(x)).view(b, t, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.out(y.transpose(1, 2).reshape(b, t, d))
        return x + self.down(F.gelu(self.up(self.norm2(x))))


class GPT(nn.Module):
    def __init__(self, width: int, depth: int, heads: int, vocab: int, length: int) -> None:
        super().__init__()
        self.embedding, self.positions = nn.Embedding(vocab, width), nn.Embedding(length, width)
        self.blocks = nn.Sequential(*[Block(width, heads) for _ in range(depth)])
        self.norm = nn.LayerNorm(width)

    def forward(self, tokens):
        x = self.embedding(tokens) + self.positions.weight[: tokens.shape[1]]
        return F.linear(self.norm(self.blocks(x)), self.embedding.weight)


def main(width, depth, head_dim, rows, length, vocab, seconds) -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    model = GPT(width, depth, width // head_dim, vocab, length)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    data = torch.randint(vocab, (64 * rows, length + 1))

    def step(i: int) -> None:
        batch = data[(i % 64) * rows : (i % 64 + 1) * rows]
        logits = model(batch[:, :-1])
        loss = F.cross_entropy(logits.reshape(-1, vocab), batch[:, 1:].reshape(-1))
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()

    for i in range(5):
        step(i)
    started, steps = time.process_time(), 0
    while time.process_time() - started < seconds:
        step(steps)
        steps += 1
    print(steps * rows * length / (time.process_time() - started))


if __name__ == "__main__":
    main(*(int(a) for a in sys.argv[1:7]), seconds=float(sys.argv[7]))
