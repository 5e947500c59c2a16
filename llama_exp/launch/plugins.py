"""The launchers and sweepers as Hydra's plugins."""

from hydra.core.config_store import ConfigStore
from hydra.core.plugins import Plugins

from llama_exp.adaptive.sweeper import AdaptiveSweeper
from llama_exp.config.compose import CONF
from llama_exp.launch.gpus import GpuLauncher
from llama_exp.launch.grid import GridSweeper
from llama_exp.launch.ray import RayLauncher
from llama_exp.launch.slurm import LocalSlurmLauncher, SlurmLauncher
from llama_exp.trials.sweeper import OptunaSweeper

PLUGINS = (GridSweeper, AdaptiveSweeper, OptunaSweeper, GpuLauncher, RayLauncher, SlurmLauncher, LocalSlurmLauncher)


def register() -> None:
    """Hydra takes plugins from the namespace `hydra_plugins` alone, which every Hydra application of this Python would
    then import: these belong to this one."""
    usual = Plugins.is_in_toplevel_plugins_module
    own = {f"{plugin.__module__}.{plugin.__name__}" for plugin in PLUGINS}
    Plugins.is_in_toplevel_plugins_module = staticmethod(lambda name: name in own or usual(name))
    for plugin in PLUGINS:
        Plugins.instance().register(plugin)
    forget_namesakes()


def forget_namesakes() -> None:
    """Released plugins (hydra-optuna-sweeper, hydra-ray-launcher) store schemas under names that conf/ has, too. Hydra
    would hold ours against theirs."""
    for path in (CONF / "hydra").glob("*/*.yaml"):
        ConfigStore.instance().repo.get("hydra", {}).get(path.parent.name, {}).pop(path.name, None)
