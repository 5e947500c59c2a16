"""The types of conf/, and how a cell of an experiment is named and found.

Values live in conf/*.yaml, types live here, so that a typo, a wrong type and a missing key
each print one readable line before anything heavy is imported. The rest of the code holds `Config`, never a DictConfig.

A *cell* is one fine-tuned adapter. Its identity is every key that can change its weights; its folder is named by that
identity, so evaluation finds training without timestamps and a repeated command finds its own earlier work.
"""

from dataclasses import dataclass, field
from enum import Enum
from typing import Any


class Source(Enum):
    hub = "hub"  # the Hugging Face hub, or `dataset.path` where that is given
    synthetic = "synthetic"  # generated rows in the same raw schema


class Quantisation(Enum):
    nf4 = "nf4"  # bitsandbytes NF4 with double quantisation
    nf4_dequantised = "nf4_dequantised"  # the same values, held in the compute type: faster on CPU, more memory
    none = "none"  # the checkpoint's own 16 or 32 bits


class Scaling(Enum):
    """What the product B·A is multiplied with."""

    fixed_alpha = "fixed_alpha"  # alpha / r, alpha the same at every rank
    constant = "constant"  # `ratio` at every rank (alpha grows with r)
    rank_stabilised = "rank_stabilised"  # alpha / sqrt(r)


class Targets(Enum):
    all = "all"  # every linear layer of every block
    attention = "attention"  # q, k, v and o


class Split(Enum):
    validation = "validation"
    test = "test"


class Schedule(Enum):
    cosine = "cosine"
    constant = "constant"


class OptimizerName(Enum):
    adamw = "adamw"
    adamw_8bit = "adamw_8bit"
    paged_adamw_8bit = "paged_adamw_8bit"


COLUMN_KEYS = ("prompt", "response", "context", "messages", "group", "id", "system_column")  # of DatasetConfig


@dataclass(kw_only=True)
class DatasetConfig:
    """One file of conf/dataset, or of a folder given by --config-dir; a file names what differs from these defaults."""

    _target_: str | None = None  # import path of a data module outside this package; null = the one of that name here
    name: str
    task: str = "answer"  # what a record becomes: "summary", "turns", "answer" …
    hub: str = ""  # repository on the Hugging Face hub
    subset: str | None = None
    revision: str | None = None
    path: str | None = None  # a folder or file to read instead of the hub
    source: Source = Source.hub
    rows: int = 4000  # synthetic only: raw rows of train; validation and test get a tenth each, at least 400
    licence: str = ""
    label: str = ""  # its name in a report; "" = `name`
    item: str = "item"  # what a report calls one of its items: "question"
    template: str = "{prompt}"  # the user's message; {fields} are the dataset's
    system: str = ""  # system prompt; "" = none
    validation: float = 0.05  # share of train's Examples carved out, by group, where the source has no validation split
    test: float = 0.1  # the same for test
    split_seed: int = 0  # no sweep moves it
    max_new_tokens: int = 128  # the longest reply, and the room reserved for the answer when a prompt is shortened
    metrics: list[str] = field(default_factory=list)  # [auto] = by what the responses of train look like
    # dataset=table only: which column is what; null = prompt and response, or the form that is recognised
    prompt: str | None = None
    response: str | None = None  # text, or a list of references
    context: str | None = None  # what may be shortened
    messages: str | None = None  # a conversation, instead of prompt and response
    group: str | None = None  # what must not lie on two sides of a split; null = rows that share prompt or response
    id: str | None = None
    system_column: str | None = None  # a system prompt of each row's own
    cleaning: dict[str, bool] = field(default_factory=dict)  # rule name -> on
    options: dict[str, Any] = field(default_factory=dict)  # whatever else a data module of your own wants to know


@dataclass(kw_only=True)
class ModelConfig:
    """One file of conf/model; a file names what differs from these defaults."""

    name: str
    path: str  # a local folder or a hub repository
    revision: str | None = None
    quantisation: Quantisation = Quantisation.nf4
    licence: str = ""
    gradient_checkpointing: bool | None = None  # null = where the memory asks for it
    needs_gpu: bool | None = True  # stop early, with advice, where there is none; null = where the weights are large
    label: str = ""  # set by the program: names a model that is not the one of conf/model, LAST-PART-OF-ITS-PATH-HASH
    sha256: bool = False  # hash every byte of the base's files; false = their sizes, headers and a few blocks

    @property
    def title(self) -> str:
        """What folders, reports and dashboards call it."""
        return self.label or self.name


@dataclass
class LoraConfig:
    r: int  # 0 = the untuned model
    alpha: float
    scaling: Scaling
    ratio: float  # only for scaling=constant
    dropout: float
    targets: Targets


@dataclass
class OptimizerConfig:
    name: OptimizerName = OptimizerName.adamw
    lr: float = 2e-4
    weight_decay: float = 0.0
    betas: list[float] = field(default_factory=lambda: [0.9, 0.999])
    schedule: Schedule = Schedule.cosine
    warmup: float = 0.03  # share of all steps
    neftune: float = 0.0  # noise alpha; 0 = off
    fp8_backward: bool = False  # gradients go back through the frozen weights in 8-bit floats


@dataclass
class BertScoreConfig:
    model: str  # auto, minilm, a hub repository or a folder (llama_exp/metrics/bertscore.py)
    layer: int | None  # null = the one that bert-score recommends
    rescale: bool  # by bert-score's baseline, where it has one for the model
    language: str  # of the baseline
    batch: int  # texts the encoder reads at a time


@dataclass
class Config:
    dataset: DatasetConfig
    model: ModelConfig
    lora: LoraConfig
    optimizer: OptimizerConfig
    trainer: dict[str, Any]  # arguments of lightning.Trainer (config/trainer_keys.py says which)
    logger: dict[str, Any]  # {name: {_target_: class, argument: value}}; {} = metrics.csv alone

    sample: int | None  # training Examples; null = all
    seed: int  # initialisation, order, dropout
    data_seed: int  # which Examples a sample holds
    max_length: int  # tokens of prompt and response together
    batch: int  # Examples a step
    micro_batch: int | None  # Examples a forward pass; null = as many as the memory holds
    memory: float | None  # GiB of the GPU
    max_tokens: int | None  # budget in tokens seen; null = trainer.max_epochs or trainer.max_steps rules
    validations: int | None  # how often validation loss is measured during a run; null = what it may cost decides
    validation_sample: int | None  # Examples it is measured on; null = all
    validation_scores: int | None  # validation items answered and scored at each validation; null = none
    monitor: str  # what early stopping and the kept adapter follow: validation_loss, or a score such as squad/f1
    early_stopping: int | None  # stop after so many validations without a better loss; null = never
    checkpoint_every: int | None  # optimizer steps between checkpoints; null = one a minute
    stop_signal: str | None  # one more signal that ends a command with a checkpoint
    stop_at: float | None  # share of a run's steps: training ends, with a checkpoint, at the next validation

    preflight: bool  # train.py: show what would be learnt, how long it takes and whether it fits; train nothing
    audit: bool  # look for held-out items in the training set before training
    evaluate: bool  # train.py: evaluate right after training, with the base already in memory
    split: Split
    eval_sample: int | None
    eval_seed: int  # no sweep moves it
    eval_batch: int | None  # prompts a generation batch; null = as many as the memory holds
    bertscore: BertScoreConfig  # read where dataset.metrics names it
    forgetting: str | None  # another dataset, or a file, whose loss shows what tuning forgot; null = none
    trained_on: str | None  # evaluate an adapter trained on this dataset
    question: str | None  # a sweep ends when it is answered: best, target, curve
    within: float  # points of the score by which an answer may be off
    target: float | None  # of question=target
    budget: str | None  # a sweep with a question ends with it: 2h, 30min, or money
    dashboard: bool  # a sweep ends with its answer saved on W&B
    predictions: str | None  # score this file instead of a model

    outputs: str
    out: str | None  # the cell's folder; null = named by its identity
