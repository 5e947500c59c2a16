"""llama_exp: how much data and how much rank does a task need, and how sure may one be?

    from llama_exp import SquadDataModule, load_config, load_run

Importing this package imports nothing heavy: a name below is imported when it is first used.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.2.0"

if TYPE_CHECKING:
    from llama_exp.batch import Batch
    from llama_exp.chat import pipeline
    from llama_exp.config.compose import load_config
    from llama_exp.data.cache import DataCache
    from llama_exp.data.datamodule import ExampleDataModule
    from llama_exp.data.datasets.guanaco import GuanacoDataModule
    from llama_exp.data.datasets.medical import MedicalDataModule
    from llama_exp.data.datasets.pubmedqa import PubMedQADataModule
    from llama_exp.data.datasets.squad import SquadDataModule
    from llama_exp.data.datasets.table import TableDataModule
    from llama_exp.data.datasets.text import TextDataModule
    from llama_exp.data.datasets.tweetsumm import TweetSummDataModule
    from llama_exp.errors import UserError
    from llama_exp.evaluation.recipe import evaluate
    from llama_exp.model.load import load_model
    from llama_exp.records import Example, Turn
    from llama_exp.runs.load import load_run
    from llama_exp.training.module import FineTuningModule

_MODULES = {  # public name -> the module that defines it
    "Batch": "batch",
    "DataCache": "data.cache",
    "Example": "records",
    "ExampleDataModule": "data.datamodule",
    "FineTuningModule": "training.module",
    "GuanacoDataModule": "data.datasets.guanaco",
    "MedicalDataModule": "data.datasets.medical",
    "PubMedQADataModule": "data.datasets.pubmedqa",
    "TableDataModule": "data.datasets.table",
    "SquadDataModule": "data.datasets.squad",
    "TextDataModule": "data.datasets.text",
    "Turn": "records",
    "TweetSummDataModule": "data.datasets.tweetsumm",
    "UserError": "errors",
    "evaluate": "evaluation.recipe",
    "load_config": "config.compose",
    "load_model": "model.load",
    "load_run": "runs.load",
    "pipeline": "chat",
}

__all__ = [
    "Batch",
    "DataCache",
    "Example",
    "ExampleDataModule",
    "FineTuningModule",
    "GuanacoDataModule",
    "MedicalDataModule",
    "PubMedQADataModule",
    "SquadDataModule",
    "Turn",
    "TableDataModule",
    "TextDataModule",
    "TweetSummDataModule",
    "UserError",
    "evaluate",
    "load_config",
    "load_model",
    "load_run",
    "pipeline",
]


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
    globals()[name] = value  # the next access does not come here
    return value


def __dir__() -> list[str]:
    return __all__
