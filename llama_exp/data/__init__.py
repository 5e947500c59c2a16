"""The datasets by name. Looking one up imports it; importing this package imports nothing heavy.

    DATASETS.of(config, tokenizer)      the data module of a run
    DATASETS["squad"]                   the class

A new dataset is a subclass of ExampleDataModule and a YAML file. Inside this package: one file here, one in
conf/dataset/ and one row of this table. Outside: a YAML file in a folder given by --config-dir, with `_target_:
my_package.MyDataModule`.
"""

from collections.abc import Iterator, Mapping
from importlib import import_module
from typing import TYPE_CHECKING, Any

from llama_exp.config.schema import Config, DatasetConfig
from llama_exp.config.targets import import_target
from llama_exp.data.cache import DataCache
from llama_exp.errors import UserError

if TYPE_CHECKING:
    from llama_exp.data.datamodule import ExampleDataModule
    from llama_exp.data.datasets.guanaco import GuanacoDataModule
    from llama_exp.data.datasets.medical import MedicalDataModule
    from llama_exp.data.datasets.pubmedqa import PubMedQADataModule
    from llama_exp.data.datasets.squad import SquadDataModule
    from llama_exp.data.datasets.table import TableDataModule
    from llama_exp.data.datasets.text import TextDataModule
    from llama_exp.data.datasets.tweetsumm import TweetSummDataModule

__all__ = [
    "DATASETS",
    "DataCache",
    "ExampleDataModule",
    "GuanacoDataModule",
    "MedicalDataModule",
    "PubMedQADataModule",
    "SquadDataModule",
    "TableDataModule",
    "TextDataModule",
    "TweetSummDataModule",
]

CLASSES = {  # name -> import path
    "guanaco": "llama_exp.data.datasets.guanaco.GuanacoDataModule",
    "medical": "llama_exp.data.datasets.medical.MedicalDataModule",
    "pubmedqa": "llama_exp.data.datasets.pubmedqa.PubMedQADataModule",
    "squad": "llama_exp.data.datasets.squad.SquadDataModule",
    "table": "llama_exp.data.datasets.table.TableDataModule",
    "text": "llama_exp.data.datasets.text.TextDataModule",
    "tweetsumm": "llama_exp.data.datasets.tweetsumm.TweetSummDataModule",
}


class Datasets(Mapping):
    """Name -> class, imported when needed: a table of names must not cost the seconds that Lightning takes."""

    def __getitem__(self, name: str) -> "type[ExampleDataModule]":
        return self.class_of(DatasetConfig(name=name))

    def __contains__(self, name: object) -> bool:
        return name in CLASSES

    def __iter__(self) -> Iterator[str]:
        return iter(CLASSES)

    def __len__(self) -> int:
        return len(CLASSES)

    def class_of(self, dataset: DatasetConfig) -> "type[ExampleDataModule]":
        """The class that a dataset's `_target_` names, or the one of this table. Raises UserError where there is
        neither."""
        if not dataset._target_ and dataset.name not in CLASSES:
            raise UserError(
                f"Unknown dataset {dataset.name!r}; known: {', '.join(sorted(CLASSES))}. A dataset of your own needs "
                f"--config-dir FOLDER with FOLDER/dataset/{dataset.name}.yaml and `_target_: my_package.MyDataModule` "
                "in it."
            )
        found = import_target(dataset._target_ or CLASSES[dataset.name], "dataset")
        from llama_exp.data.datamodule import ExampleDataModule

        if not (isinstance(found, type) and issubclass(found, ExampleDataModule)):
            raise UserError(
                f"dataset._target_={dataset._target_}: wanted a subclass of llama_exp.ExampleDataModule, which reads "
                "rows (`read`), splits and batches them."
            )
        return found

    def of(self, config: Config, tokenizer: Any = None, cache: DataCache | None = None) -> "ExampleDataModule":
        """The data module of a run. Runs that are given one cache share what is read and tokenised."""
        return self.class_of(config.dataset).from_config(config, tokenizer, cache)


DATASETS = Datasets()


def __getattr__(attribute: str):
    if attribute == "ExampleDataModule":
        return import_module("llama_exp.data.datamodule").ExampleDataModule
    for name, path in CLASSES.items():
        if path.endswith(f".{attribute}"):
            return DATASETS[name]
    raise AttributeError(f"module {__name__!r} has no attribute {attribute!r}")
