"""Composes the jobs of a grid; those that differ in plain values only share one composition.

Hydra takes 50 ms and more to compose a config from its groups, which is most of what a launch of a
thousand tiny runs would do. Its own last step, setting values, takes 2.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

from hydra import compose
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from omegaconf import DictConfig


class Composer:
    """Lives inside an initialised Hydra."""

    def __init__(self) -> None:
        loader: Any = GlobalHydra.instance().config_loader()
        self._groups = loader.repository
        self._parser = OverridesParser.create(config_loader=loader)
        self._overrides: dict[str, Override] = {}
        self._bases: dict[tuple[str, ...], DictConfig] = {}

    def compose(self, job: Sequence[str]) -> DictConfig:
        """What `hydra.compose("config", job)` returns.

        Raises:
            hydra.errors.HydraException: As Hydra does.
        """
        parsed = [self._parsed(text) for text in job]
        plain = [o for o in parsed if self._is_plain(o)]
        rest = [o for o in parsed if o not in plain]
        if not all(self._is_group(o) or o.is_hydra_override() for o in rest):
            return compose("config", overrides=list(job))
        chosen = tuple(str(o.input_line) for o in rest)
        if chosen not in self._bases:
            self._bases[chosen] = compose("config", overrides=list(chosen))
        config = copy.deepcopy(self._bases[chosen])
        ConfigLoaderImpl._apply_overrides_to_config(plain, config)
        return config

    def _parsed(self, text: str) -> Override:
        """One override; a grid has few that differ."""
        if text not in self._overrides:
            (self._overrides[text],) = self._parser.parse_overrides([text])
        return self._overrides[text]

    def _is_group(self, override: Override) -> bool:
        """Whether it chooses a file of a group."""
        return bool(self._groups.group_exists(override.key_or_group))

    def _is_plain(self, override: Override) -> bool:
        """Whether it sets one value, whatever the others do."""
        return not (
            override.is_add()
            or override.is_force_add()
            or override.is_delete()
            or override.is_hydra_override()
            or override.package is not None
            or isinstance(override.value(), dict)
            or self._is_group(override)
        )
