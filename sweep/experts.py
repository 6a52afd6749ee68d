"""A mixture-of-experts MLP: a router sends every token to its top k experts, and none is dropped.

Gates are the router's probabilities, among the chosen ones where there are several (Fedus et al.
2021, arXiv:2101.03961, for one; Jiang et al. 2024, arXiv:2401.04088, for more). Each expert
multiplies exactly the tokens sent to it, so FLOPs are those of k MLPs and the router.

Shape letters: n tokens, d width, e experts, k chosen, f MLP units.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

Mlp = Callable[[Tensor, Tensor, Tensor], Tensor]


def mixture(
    x_nd: Tensor, router_ed: Tensor, up_efd: Tensor, down_edf: Tensor, top_k: int, mlp: Mlp
) -> tuple[Tensor, Tensor]:
    """Send tokens through their experts.

    Args:
        x_nd: Tokens.
        router_ed: One row per expert.
        up_efd: First matrices of the experts (twice f rows where gated).
        down_edf: Second matrices.
        top_k: Experts per token.
        mlp: One expert: (tokens, up, down) -> tokens.

    Returns:
        The gated sum over each token's experts (n, d), and the balance: experts x sum over experts
        of (share of tokens) x (mean probability), 1 where all are used alike, up to e / k.

    Source: Fedus et al. 2021, arXiv:2101.03961, eq. 4.
    """
    count, experts = x_nd.shape[0], router_ed.shape[0]
    probability_ne = F.linear(x_nd, router_ed).float().softmax(-1)
    gate_nk, chosen_nk = probability_ne.topk(top_k, dim=-1)
    if top_k > 1:
        gate_nk = gate_nk / gate_nk.sum(-1, keepdim=True)
    order = chosen_nk.flatten().argsort(stable=True)
    token = order // top_k
    sent_e = torch.bincount(chosen_nk.flatten(), minlength=experts)
    parts = x_nd.index_select(0, token).split(sent_e.tolist())
    made = [mlp(part, up, down) for part, up, down in zip(parts, up_efd, down_edf, strict=True)]
    y = torch.cat(made) * gate_nk.flatten()[order, None].to(x_nd.dtype)
    y_nd = torch.zeros_like(x_nd, dtype=y.dtype).index_add(0, token, y)
    share_e = sent_e / (count * top_k)
    return y_nd, experts * (share_e * probability_ne.mean(0)).sum()
