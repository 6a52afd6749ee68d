"""Muon for hidden matrices beside AdamW; classes of the user's own: `sweep.plugins`.

Muon moves a matrix along the orthogonal factor of its averaged gradient. Every update then has the
spectral norm 1, whatever the width, so that one learning rate serves all widths; torch multiplies
it by sqrt(max(1, rows / columns)), so that a step changes outputs equally at every shape of matrix
(Yang, Simon & Bernstein 2023, arXiv:2310.17813, condition 1). AdamW trains all that is no hidden
matrix.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch

ParameterGroup = dict[str, Any]


class MuonAdamW(torch.optim.Optimizer):
    """Muon on the groups whose rate falls along the trunk (hidden matrices), AdamW on the others.

    One optimiser to the outside: its groups and state are those of both, so that it is saved,
    restored and scheduled as AdamW alone is.
    """

    def __init__(self, groups: Sequence[ParameterGroup], *, momentum: float, **adam: Any) -> None:
        """Build both.

        Args:
            groups: As `sweep.training.session.build_optimizer` makes them.
            momentum: Of Muon, with Nesterov's correction.
            adam: Settings of AdamW.
        """
        hidden = [{k: v for k, v in g.items() if k != "eps"} for g in groups if g["decays"]]
        self._muon = torch.optim.Muon(hidden, momentum=momentum, adjust_lr_fn="original")
        self._adam = torch.optim.AdamW([g for g in groups if not g["decays"]], **adam)
        super().__init__([*self._muon.param_groups, *self._adam.param_groups], {})
        self._share()

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Take over a restored state, which has groups and tensors of its own."""
        super().__setstate__(state)
        self._share()

    def _share(self) -> None:
        """Let both work on the groups and the state of this one."""
        self._muon.param_groups = [g for g in self.param_groups if g["decays"]]
        self._adam.param_groups = [g for g in self.param_groups if not g["decays"]]
        self._muon.state = self._adam.state = self.state

    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """Update all parameters from their gradients; a closure is not used."""
        assert closure is None
        self._muon.step()  # type: ignore[no-untyped-call]
        self._adam.step()
