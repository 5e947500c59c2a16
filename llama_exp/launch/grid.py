"""Hydra's sweeper for a plain grid, without its second look at each cell."""

from collections.abc import Sequence
from typing import Any

from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig

MAX_KEPT = 100  # configs, of 0.4 MB each


class GridSweeper(Sweeper):
    """Every combination of the values that are typed with commas.

    Hydra composes every cell before the first one starts, to find what is mistyped, and each again when its turn comes:
    a tenth of a second a cell. Here the first MAX_KEPT are kept for their turn.
    """

    def __init__(self, **settings: Any) -> None:
        # Not at the top: looking for plugins, Hydra imports its own ones anew, and a class of before would be another.
        from hydra._internal.core_plugins.basic_sweeper import BasicSweeper

        self._basic = BasicSweeper(**settings)

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        from hydra._internal.core_plugins.basic_launcher import BasicLauncher

        self._basic.setup(hydra_context=hydra_context, task_function=task_function, config=config)
        launcher = self._basic.launcher
        if isinstance(launcher, BasicLauncher):  # the others compose in their workers
            loader, callbacks = hydra_context.config_loader, hydra_context.callbacks
            keeping = Keeping(loader)
            self._basic.hydra_context = HydraContext(keeping, callbacks)
            launcher.hydra_context = HydraContext(Taking(loader, keeping.kept), callbacks)

    def sweep(self, arguments: list[str]) -> Any:
        return self._basic.sweep(arguments)


class Asking:
    """A ConfigLoader that asks another one."""

    def __init__(self, loader: Any) -> None:
        self._loader = loader

    def __getattr__(self, name: str) -> Any:
        return getattr(self._loader, name)


class Keeping(Asking):
    """Keeps the first configs that it composes; another loader takes them. A cell changes its config, so that equal
    cells have one each."""

    def __init__(self, loader: Any) -> None:
        super().__init__(loader)
        self.kept: list[tuple[list[str], DictConfig]] = []

    def load_sweep_config(self, master_config: DictConfig, sweep_overrides: Sequence[str]) -> DictConfig:
        config = self._loader.load_sweep_config(master_config, list(sweep_overrides))
        if len(self.kept) < MAX_KEPT:
            self.kept.append((list(sweep_overrides), config))
        return config


class Taking(Asking):
    """Takes what was kept for the cell whose turn it is, in the order in which it was composed."""

    def __init__(self, loader: Any, kept: list[tuple[list[str], DictConfig]]) -> None:
        super().__init__(loader)
        self._kept = kept

    def load_sweep_config(self, master_config: DictConfig, sweep_overrides: Sequence[str]) -> DictConfig:
        if self._kept and self._kept[0][0] == list(sweep_overrides):
            return self._kept.pop(0)[1]
        return self._loader.load_sweep_config(master_config, list(sweep_overrides))
