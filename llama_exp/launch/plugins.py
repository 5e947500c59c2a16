"""The launchers as Hydra's plugins."""

from hydra.core.plugins import Plugins

from llama_exp.launch.gpus import GpuLauncher
from llama_exp.launch.ray import RayLauncher
from llama_exp.launch.slurm import LocalSlurmLauncher, SlurmLauncher

LAUNCHERS = (GpuLauncher, RayLauncher, SlurmLauncher, LocalSlurmLauncher)


def register() -> None:
    """Hydra takes plugins from the namespace `hydra_plugins` alone, which every Hydra application of this Python would
    then import: these belong to this one."""
    usual = Plugins.is_in_toplevel_plugins_module
    own = {f"{launcher.__module__}.{launcher.__name__}" for launcher in LAUNCHERS}
    Plugins.is_in_toplevel_plugins_module = staticmethod(lambda name: name in own or usual(name))
    for launcher in LAUNCHERS:
        Plugins.instance().register(launcher)
