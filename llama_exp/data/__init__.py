"""The datasets by name. Looking one up imports it; importing this package imports nothing heavy.

    DATASETS["squad"](config.dataset, tokenizer, sample=1000).setup()

A new dataset is one file here, one YAML in conf/dataset/ and one row of this table.
"""

from collections.abc import Iterator, Mapping
from importlib import import_module
from typing import TYPE_CHECKING

from llama_exp.errors import UserError

if TYPE_CHECKING:
    from llama_exp.data.datamodule import ExampleDataModule
    from llama_exp.data.datasets.guanaco import GuanacoDataModule
    from llama_exp.data.datasets.medical import MedicalDataModule
    from llama_exp.data.datasets.pubmedqa import PubMedQADataModule
    from llama_exp.data.datasets.squad import SquadDataModule
    from llama_exp.data.datasets.tweetsumm import TweetSummDataModule

__all__ = [
    "DATASETS",
    "GuanacoDataModule",
    "MedicalDataModule",
    "PubMedQADataModule",
    "SquadDataModule",
    "TweetSummDataModule",
]

CLASSES = {
    "guanaco": "GuanacoDataModule",
    "medical": "MedicalDataModule",
    "pubmedqa": "PubMedQADataModule",
    "squad": "SquadDataModule",
    "tweetsumm": "TweetSummDataModule",
}


class Datasets(Mapping):
    """Name -> class, imported when asked for: a table of names must not cost the seconds that Lightning takes."""

    def __getitem__(self, name: str) -> "type[ExampleDataModule]":
        if name not in CLASSES:
            raise UserError(f"Unknown dataset {name!r}; known: {', '.join(sorted(CLASSES))}.")
        return getattr(import_module(f"{__name__}.datasets.{name}"), CLASSES[name])

    def __contains__(self, name: object) -> bool:
        return name in CLASSES

    def __iter__(self) -> Iterator[str]:
        return iter(CLASSES)

    def __len__(self) -> int:
        return len(CLASSES)


DATASETS = Datasets()


def __getattr__(attribute: str):
    for name, class_name in CLASSES.items():
        if class_name == attribute:
            return DATASETS[name]
    raise AttributeError(f"module {__name__!r} has no attribute {attribute!r}")
