"""Hydra's sweeper for a plain grid, without its second look at each cell."""

from collections.abc import Sequence
from typing import Any

from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig

KEPT = 100  # configs, of 0.4 MB each


class GridSweeper(Sweeper):
    """Hydra composes every cell before the first one starts, to find what is mistyped, and each again when its turn
    comes: a tenth of a second a cell. Here the first KEPT are kept for their turn."""

    def __init__(self, **settings: Any) -> None:
        from hydra._internal.core_plugins.basic_sweeper import BasicSweeper  # Hydra imports its plugins twice

        self._basic = BasicSweeper(**settings)

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        from hydra._internal.core_plugins.basic_launcher import BasicLauncher

        self._basic.setup(hydra_context=hydra_context, task_function=task_function, config=config)
        launcher = self._basic.launcher
        if isinstance(launcher, BasicLauncher):  # the others compose in their workers
            once = HydraContext(ComposedOnce(hydra_context.config_loader), hydra_context.callbacks)
            self._basic.hydra_context = launcher.hydra_context = once

    def sweep(self, arguments: list[str]) -> Any:
        return self._basic.sweep(arguments)


class ComposedOnce:
    """A ConfigLoader that hands out the config that it has composed for the same overrides, once: a cell changes it."""

    def __init__(self, loader: Any) -> None:
        self._loader = loader
        self._composed: dict[tuple[str, ...], DictConfig] = {}

    def load_sweep_config(self, master_config: DictConfig, sweep_overrides: Sequence[str]) -> DictConfig:
        key = tuple(sweep_overrides)
        if key in self._composed:
            return self._composed.pop(key)
        composed = self._loader.load_sweep_config(master_config, list(sweep_overrides))
        if len(self._composed) < KEPT:
            self._composed[key] = composed
        return composed

    def __getattr__(self, name: str) -> Any:
        return getattr(self._loader, name)
