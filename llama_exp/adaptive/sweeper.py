"""Hydra's side: run cells one after another, or as many at a time as there are workers, until the answer is known."""

from collections.abc import Mapping
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.core.plugins import Plugins
from hydra.core.utils import JobReturn
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig

from llama_exp.errors import UserError


class ChoosingSweeper(Sweeper):
    """What sweepers share that choose their cells as they go."""

    def __init__(self, params: Mapping[str, Any] | None = None) -> None:
        self.params = dict(params or {})  # the grid that sweep=… or experiment=… names

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        self.hydra_context, self.config = hydra_context, config
        self.launcher = Plugins.instance().instantiate_launcher(
            hydra_context=hydra_context, task_function=task_function, config=config
        )

    def overrides(self, arguments: list[str]) -> list[Override]:
        """What was typed, and those of the grid that `params` names and nobody typed."""
        named = {argument.partition("=")[0] for argument in arguments}
        typed = [*(f"{key}={value}" for key, value in self.params.items() if key not in named), *arguments]
        return OverridesParser.create(config_loader=self.hydra_context.config_loader).parse_overrides(typed)


class AdaptiveSweeper(ChoosingSweeper):
    """question=best | target | curve: hydra/sweeper=adaptive is chosen by it (cli/main.py)."""

    def sweep(self, arguments: list[str]) -> list[JobReturn]:
        from llama_exp.adaptive.budget import Budget  # numpy and scipy: not for --help
        from llama_exp.adaptive.plan import Plan
        from llama_exp.adaptive.questions import question_of
        from llama_exp.adaptive.search import Search

        config = self.config
        if not config.question:
            raise UserError("hydra/sweeper=adaptive needs a question: question=best, target or curve.")
        question, budget = question_of(config.question, config.within, config.target), Budget.of(config.budget)
        plan = Plan.of(self.overrides(arguments))
        if config.preflight:  # what the whole grid would take, once: an answer may come earlier
            return list(self.launcher.launch([plan.overrides(i, 0) for i in range(len(plan.settings))], 0))
        return Search(plan, question, budget, self.launcher, config).run()
