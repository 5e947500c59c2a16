"""The life cycle of every dataset: load, clean, split, sample; then encode and load in batches.

    rows --read--> Examples --split by group--> train | validation | test --sample--> train[:sample]

A dataset is a subclass: which columns it needs, which upstream split is held out, and `read(row)`.
"""

import copy
import dataclasses
import difflib
import functools
import hashlib
from collections import Counter
from typing import Any, Self

from lightning import LightningDataModule
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from torch.utils.data import DataLoader

from llama_exp.batch import Batch
from llama_exp.config.compose import default_config
from llama_exp.config.schema import COLUMN_KEYS, Config, DatasetConfig, Source
from llama_exp.data import sources
from llama_exp.data.cache import DataCache
from llama_exp.data.chat_format import check_template
from llama_exp.data.cleaning import Cleaner
from llama_exp.data.encoding import encode_all
from llama_exp.data.packing import EpochSampler, Plan, StepSampler, collate, step_loader, whole_loader
from llama_exp.data.splitting import carve, shuffled
from llama_exp.errors import UserError
from llama_exp.records import Example, Tokens

HELD_OUT_FIRST = ("test", "validation", "train")  # who keeps a duplicate or a group that lies on two sides
VALIDATION_BATCH_TOKENS = 4096  # a run validates in batches of about so many tokens, however long its Examples are


class NotText(TypeError):
    """`value` is a list or an object where text was wanted; Python's way of printing it must not be learnt."""

    def __init__(self, value: Any):
        kind = "an object" if isinstance(value, dict) else "bytes" if isinstance(value, bytes) else "a list"
        super().__init__(f"wanted text, got {kind if not isinstance(value, str) else 'no JSON'}: {value!r}"[:100])
        self.value = value


def text(value: Any) -> str:
    """A cell as stripped text, as JSON writes it; "" where there is nothing (None, NaN). Raises NotText."""
    if isinstance(value, str):
        return value.strip()
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, list | tuple | dict | bytes):
        raise NotText(value)
    return "" if value is None or value != value else str(value).strip()


def texts(value: Any) -> tuple[str, ...]:
    """A cell that holds one text or a list of them, as a list, as written, without the empty ones."""
    values = value if isinstance(value, list | tuple) else [value]
    return tuple(one if isinstance(one, str) else text(one) for one in values if text(one))


class ExampleDataModule(LightningDataModule):
    """Three splits of Examples from one dataset, for any LightningModule and any Trainer.

        data = SquadDataModule(source="synthetic", tokenizer=tokenizer, sample=16, batch_size=4, max_length=256)
        trainer.fit(module, data)                  # 4 batches an epoch, in another order each epoch
        for batch in data.train_dataloader(): …    # works without a Trainer too

    dataset            a whole section of a Config, or nothing: then any of its keys can be given by name (`source=…`,
                       `path=…`, `template=…`), and the others have the values of conf/dataset
    tokenizer          needed for batches, not for Examples
    batch_size         Examples a Batch (in a run of this package, where `plan_steps` was called: a step)
    sample             training Examples, None = all; samples of one `data_seed` nest
    validation_sample  Examples that validation loss is measured on, drawn by `eval_seed`; None = all
    seed               order of the training Examples
    cache              shares what was read and encoded with other data modules

    After `setup()`: `train` (the sample), `available` (what it was drawn from), `validation`, `test`: list[Example];
    `counts`: what was read, cleaned, dropped and kept, as plain dicts (stored with the run; `describe()` prints it).

    Raises UserError: unknown template field, cleaning rule or task; unreadable source; missing column; empty split.
    """

    conf: str | None = None  # the file of conf/dataset with the values of this dataset
    columns: tuple[str, ...]  # that `read` needs
    fields: tuple[str, ...] | None = ("prompt",)  # that a template may name; None = known when the rows are read
    tasks: tuple[str, ...] = ("answer",)  # what `read` can make of a row; the first is the default
    answers_in_context: bool | None = False  # whether a response is a span of the context, so that a shortened one may
    # lose it; None = where nine in ten are
    names_columns = False  # whether `dataset.prompt=COLUMN` and its like say which column is what
    splits: dict[str, str] = {"train": "train", "validation": "validation", "test": "test"}
    # ours -> upstream's; what the source does not have is carved out of train by group

    def __init__(
        self,
        dataset: DatasetConfig | None = None,
        tokenizer=None,
        *,
        batch_size: int = 16,
        max_length: int = 1024,
        micro_batch: int | None = None,
        sample: int | None = None,
        validation_sample: int | None = None,
        seed: int = 0,
        data_seed: int = 0,
        eval_seed: int = 0,
        cache: DataCache | None = None,
        **keys: Any,
    ):
        super().__init__()
        self.dataset = self._with_keys(dataset, max_length, keys)
        self.tokenizer = tokenizer
        self.max_length, self.batch_size, self.micro_batch = max_length, batch_size, micro_batch or batch_size
        self.sample, self.validation_sample = sample, validation_sample
        self.seed, self.data_seed, self.eval_seed = seed, data_seed, eval_seed
        self.cache = DataCache() if cache is None else cache
        self.plan: Plan | None = None
        self.clean = Cleaner(self.dataset.cleaning)
        self.counts: dict[str, Any] = {}
        self._dropped: Counter[str] = Counter()
        self._repairs: Counter[str] = Counter()  # what reading a file put right
        self._encoded: dict[str, list[Tokens]] = {}
        self._ready = False
        if self.fields is not None:
            check_template(self.dataset.template, self.fields)
        self._check_column_keys()
        if self.dataset.task not in self.tasks:
            raise UserError(
                f"Unknown dataset.task={self.dataset.task} for {self.dataset.name}; known: {', '.join(self.tasks)}."
            )

    def _check_column_keys(self) -> None:
        typed = {key: getattr(self.dataset, key) for key in COLUMN_KEYS if getattr(self.dataset, key) is not None}
        if typed and not self.names_columns:
            key, value = next(iter(typed.items()))
            raise UserError(
                f"dataset.{key}={value}: dataset={self.dataset.name} reads the columns {', '.join(self.columns)} and "
                "no others. For a table of your own type dataset=table."
            )

    @classmethod
    def from_config(cls, config: Config, tokenizer=None, cache: DataCache | None = None) -> Self:
        """The data of one run."""
        return cls(
            config.dataset,
            tokenizer,
            batch_size=config.batch,
            max_length=config.max_length,
            micro_batch=config.micro_batch,
            sample=config.sample,
            validation_sample=config.validation_sample,
            seed=config.seed,
            data_seed=config.data_seed,
            eval_seed=config.eval_seed,
            cache=cache,
        )

    @classmethod
    def _with_keys(cls, dataset: DatasetConfig | None, max_length: int, keys: dict[str, Any]) -> DatasetConfig:
        """`dataset`, or this dataset's values of conf/, with the keys that were given by name."""
        if dataset is not None and not keys:
            return dataset
        known = [field.name for field in dataclasses.fields(DatasetConfig)]
        for key in keys.keys() - set(known):
            near = difflib.get_close_matches(key, [*known, "batch_size", "max_length", "sample", "tokenizer"], n=1)
            hint = f" Did you mean {near[0]!r}?" if near else ""
            raise TypeError(f"{cls.__name__} got an unexpected argument {key!r}.{hint}")
        if dataset is None:
            dataset = default_config({"dataset": cls.conf}).dataset if cls.conf else DatasetConfig(name=cls.__name__)
        try:
            dataset = OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(dataset), keys))
        except OmegaConfBaseException as error:
            raise UserError(f"{cls.__name__}: {str(error).splitlines()[0]} ({error.full_key})") from None
        # as in a run: half of the length at least is left to the prompt
        return dataclasses.replace(dataset, max_new_tokens=min(dataset.max_new_tokens, max_length // 2))

    # -- what a dataset declares ---------------------------------------------------------------------------------------

    def read(self, row: dict) -> list[Example]:
        """One raw row as Examples. Nothing after this sees a row."""
        raise NotImplementedError

    def regroup(self, examples: list[Example]) -> list[Example]:
        """Hook: Examples of all splits with new groups, where a row alone does not tell its group."""
        return examples

    def rows_on_disk(self) -> sources.Rows:
        """Hook: rows by upstream split from `dataset.path`."""
        return sources.from_path(self.dataset.path, self.dataset.subset, self.columns, self._repairs)

    def fill(self, **fields: str) -> str:
        """The user's message in the dataset's wording. Braces in the data survive: only the template is parsed."""
        return self.dataset.template.format(**fields).strip()

    def drop(self, reason: str, count: int = 1) -> list[Example]:
        """`return self.drop("no answer")`: nothing comes of this row, and the Examples lost are counted."""
        self._dropped[reason] += count
        return []

    # -- load, clean, split, sample ------------------------------------------------------------------------------------

    def setup(self, stage: str | None = None) -> None:
        if self._ready:
            return
        examples = self._by_split()
        self.available = shuffled(examples["train"], self.data_seed)
        self.train = self.available[: self.sample]
        self.validation, self.test = examples["validation"], examples["test"]
        self.counts["examples"] = {split: len(getattr(self, split)) for split in ("train", "validation", "test")}
        self.counts["sample"] = {"asked": self.sample, "available": len(self.available), "used": len(self.train)}
        self._ready = True

    def _by_split(self) -> dict[str, list[Example]]:
        """All Examples by split, from the cache where this very source was read before."""
        data = dataclasses.replace(self.dataset, metrics=[], licence="")  # neither changes what is read
        source = (type(self), repr(data), sources.fingerprint(self.dataset.path))
        examples, counts = self.cache.examples(source, self._read_and_split)
        self.counts = copy.deepcopy(counts)
        return examples

    def _read_and_split(self) -> tuple[dict[str, list[Example]], dict[str, Any]]:
        examples = self._read(self._rows())
        self._split(examples)
        return examples, self.counts

    def held_out(self, split: str, count: int | None = None) -> list[Example]:
        """`count` Examples of validation or test, drawn by `eval_seed` alone; None = all, in their order."""
        examples = self.validation if split == "validation" else self.test
        return _drawn(examples, count, self.eval_seed)

    def _rows(self) -> sources.Rows:
        """Raw rows by our name of the split."""
        data = self.dataset
        sources.check(data)
        if data.source is Source.synthetic:
            return sources.synthetic(data)
        if data.path:
            found = self.rows_on_disk()
        else:
            found = sources.from_hub(data.hub, data.subset, data.revision, self.columns, self._repairs)
        ours = {split: found[theirs] for split, theirs in self.splits.items() if theirs in found}
        if not ours.get("train"):
            there = ", ".join(f"{name} ({len(rows)} rows)" for name, rows in found.items())
            wanted = f"wanted a split {self.splits['train']!r} with rows"
            raise UserError(f"{data.path or data.hub}: {wanted}; there are {there}.")
        return ours

    def _read(self, rows: sources.Rows) -> dict[str, list[Example]]:
        """Rows to Examples with unique ids, duplicates dropped, groups final."""
        self.counts = {"rows": {split: len(of_split) for split, of_split in rows.items()}, "dropped": {}}
        if self._repairs:
            self.counts["repairs"] = dict(self._repairs)
        seen: set[tuple] = set()
        ids: Counter[str] = Counter()
        flat: list[tuple[str, Example]] = []
        for split in (split for split in HELD_OUT_FIRST if split in rows):
            self._dropped.clear()
            for number, row in enumerate(rows[split], 1):
                for example in self._examples(row, getattr(row, "where", f"row {number:,} of {split}")):
                    if self._repeated(example, seen):
                        continue
                    ids[example.id] += 1
                    flat.append((split, self._finished(example, ids[example.id])))
                self.clean.end_row()
            self.counts["dropped"][split] = dict(self._dropped)
        self.counts["cleaning"] = self.clean.counts
        grouped = self.regroup([example for _, example in flat])
        examples: dict[str, list[Example]] = {split: [] for split in rows}
        for (split, _), example in zip(flat, grouped, strict=True):
            examples[split].append(example)
        return examples

    def _examples(self, row: dict, where: str) -> list[Example]:
        try:
            return self.read(row)
        except NotText as error:
            column = next((f", column {name!r}" for name, value in row.items() if value is error.value), "")
            raise UserError(f"{self.dataset.name}: {where}{column}: {error}.") from error
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            reason = f"{type(error).__name__}: {error}"
            raise UserError(
                f"{self.dataset.name}: {where} has not the shape wanted ({reason}).\n{self.__doc__}"
            ) from error

    def _finished(self, example: Example, time: int) -> Example:
        """What holds for every dataset: an id of its own, the configured system prompt, a context the prompt holds."""
        changes = {}
        if time > 1:  # the hash of equal content, or a careless source
            changes["id"] = f"{example.id}~{time}"
        if self.dataset.system and not example.system:
            changes["system"] = self.dataset.system
        if example.context not in example.prompt:  # a template without {context}
            changes["context"] = ""
        return dataclasses.replace(example, **changes) if changes else example

    def _repeated(self, example: Example, seen: set[tuple]) -> bool:
        """Whether the same words were there before (first come, held-out splits first). Counts it if so."""
        if not self.clean.duplicates:
            return False
        content = (example.prompt, example.response, example.history)
        if content not in seen:
            seen.add(content)
            return False
        self.clean.repeated(len(example.prompt) + len(example.response))
        return True

    def _split(self, examples: dict[str, list[Example]]) -> None:
        """Carve what the source lacks out of train, by group; then see that no group is on two sides."""
        whole = len(examples["train"])
        lacking = [split for split in ("test", "validation") if split not in examples]
        if 0 < whole <= len(lacking):
            raise UserError(
                f"{self.dataset.name}: too few Examples for train: {whole}. Wanted {len(lacking) + 1} or more, one "
                f"each for {', '.join(['train', *lacking])}. Add rows to {self.dataset.path or self.dataset.hub}."
            )
        for split in ("test", "validation"):
            if split not in examples and whole:
                examples["train"], examples[split] = self._carved(split, examples["train"], whole)
        taken: set[str] = set()
        for split in (split for split in HELD_OUT_FIRST if split in examples):
            kept = [example for example in examples[split] if example.group not in taken]
            if len(kept) < len(examples[split]):
                lost = len(examples[split]) - len(kept)
                self.counts["dropped"].setdefault(split, {})["group is held out elsewhere"] = lost
            if not kept:
                raise UserError(f"No Example is left for {split} of {self.dataset.name}.\n{self.describe()}")
            examples[split] = kept
            taken.update(example.group for example in kept)

    def _carved(self, split: str, train: list[Example], whole: int) -> tuple[list[Example], list[Example]]:
        """(what stays in train, the new split), for the configured share of the `whole`."""
        name, share = self.dataset.name, getattr(self.dataset, split)
        if not share:
            raise UserError(
                f"{name}: the source has no {split} split and dataset.{split}=0 carves none out of train. "
                f"Give a share: dataset.{split}=0.1"
            )
        kept, carved = carve(train, max(1, round(share * whole)), self.dataset.split_seed)
        if not carved:
            raise UserError(
                f"{name}: no {split} split can be carved out of train, which is one group of {len(train)}. "
                f"Give a source with more, or with a {split} split of its own"
                f"{', or another dataset.group=COLUMN' * self.names_columns}."
            )
        return kept, carved

    def describe(self) -> str:
        """What was read, cleaned, dropped and kept, for a person."""
        counts = self.counts
        rows = ", ".join(f"{n:,} {split}" for split, n in counts["rows"].items())
        lines = [f"{self.dataset.name}: {rows} rows"]
        lines += [f"  {note}" + (f": {n:,}" if n > 1 else "") for note, n in counts.get("repairs", {}).items()]
        for split, reasons in counts["dropped"].items():
            lines += [f"  dropped from {split}: {n:,} ({reason})" for reason, n in reasons.items()]
        lines += [
            f"  cleaning {name}: {did['rows']:,} rows, {did['characters']:,} characters"
            for name, did in counts.get("cleaning", {}).items()
            if did["rows"]
        ]
        if self._ready:
            lines.append("  Examples: " + ", ".join(f"{n:,} {split}" for split, n in counts["examples"].items()))
            requested, available = counts["sample"]["asked"], counts["sample"]["available"]
            if requested and requested > available:
                lines.append(
                    f"  sample={requested:,} is more than the {available:,} there are: all {available:,} are used"
                )
        return "\n".join(lines)

    # -- encode and load -----------------------------------------------------------------------------------------------

    def encoded(self, split: str) -> list[Tokens]:
        """The split's Examples as Tokens, encoded once; what was shortened or dropped goes to `counts["encoded"]`."""
        if split not in self._encoded:
            if self.tokenizer is None:
                raise UserError(f"{type(self).__name__} makes no batches without a tokenizer. Give it: tokenizer=…")
            self.setup()
            examples = {
                "train": self.train,
                "test": self.test,
                "validation": self.held_out("validation", self.validation_sample),
            }[split]
            settings = self.tokenizer, self.max_length, self.dataset.max_new_tokens, self.answers_in_context
            self._encoded[split], counts = self.cache.encoded(
                split, settings, examples, lambda: encode_all(examples, *settings)
            )
            self.counts.setdefault("encoded", {})[split] = dict(counts)
        return self._encoded[split]

    def reaching_training(self) -> str:
        """How much of the sample reaches training and why the rest does not, for a person; "" where all of it does."""
        train, sampled = self.counts["encoded"]["train"], self.counts["sample"]["used"]
        why = {
            f"the response does not fit in max_length={self.max_length}": train["dropped_response_too_long"],
            "there is no response": train["dropped_no_response"],
        }
        dropped = ", ".join(f"{count:,} dropped ({reason})" for reason, count in why.items() if count)
        return f"{train['encoded']:,} of {sampled:,} Examples reach training; {dropped}" if dropped else ""

    def shortened_prompts(self) -> str:
        """How many prompts of the sample were shortened and lost their answer by it, for a person; "" for none."""
        train = self.counts["encoded"]["train"]
        if not train["shortened"]:
            return ""
        lost = f"; {train['answers_lost']:,} of them lost the answer with it" if train["answers_lost"] else ""
        return f"{train['shortened']:,} prompts shortened to fit max_length={self.max_length}{lost}"

    # -- dataloaders ---------------------------------------------------------------------------------------------------

    def plan_steps(self, max_epochs: int | None, max_steps: int | None, max_tokens: int | None) -> int:
        """Plan a whole run, as the commands of this package do, and return its length in steps.

        From now on `train_dataloader` gives all epochs as one, step for step by the plan, so that a run that was killed
        continues with the very batch it would have seen. Whichever budget is spent first ends the run; None and -1 are
        no budget.
        """
        self.plan = Plan(self.encoded("train"), self.batch_size, self.seed, max_epochs, max_steps, max_tokens)
        return self.plan.total_steps

    def train_dataloader(self) -> DataLoader:
        """One epoch, shuffled; or, after `plan_steps`, what is left of the planned run."""
        tokens = self.encoded("train")
        if self.plan is None:
            return self._loader("train", sampler=EpochSampler(len(tokens), self.seed))
        rank, world = self._rank()
        sampler = StepSampler(self.plan, self.micro_batch, rank, world)
        if self.trainer is not None:
            progress = self.trainer.fit_loop.epoch_loop.batch_progress
            sampler.start = lambda: progress.total.ready
        return step_loader(tokens, sampler)

    def val_dataloader(self) -> DataLoader:
        if self.plan is None:
            return self._loader("validation")
        return whole_loader(self.encoded("validation"), VALIDATION_BATCH_TOKENS, *self._rank())

    def test_dataloader(self) -> DataLoader:
        return self._loader("test")

    def predict_dataloader(self) -> DataLoader:
        """The test split: its Batches hold prompts and responses, so that a module can measure either."""
        return self._loader("test")

    def _loader(self, split: str, sampler: EpochSampler | None = None) -> DataLoader[Batch]:
        # A plain DataLoader with a plain sampler: under DDP a Trainer puts its DistributedSampler in, as for any other.
        return DataLoader(self.encoded(split), batch_size=self.batch_size, sampler=sampler, collate_fn=collate)

    def _rank(self) -> tuple[int, int]:
        return (0, 1) if self.trainer is None else (self.trainer.global_rank, self.trainer.world_size)

    # -- the same Examples after a resume ------------------------------------------------------------------------------

    @functools.cached_property
    def content(self) -> str:
        """A hash of what is learnt and what validation is measured on: shows that a source was changed behind its
        name."""
        return self._content(self.validation_sample, self.eval_seed)

    def _content(self, validation_sample: int | None, eval_seed: int) -> str:
        digest = hashlib.sha256()
        for example in [*self.train, *_drawn(self.validation, validation_sample, eval_seed)]:
            digest.update(repr(example).encode("utf-8", "surrogatepass"))
        return digest.hexdigest()[:32]

    def state_dict(self) -> dict[str, Any]:
        return {"content": self.content, "validation_sample": self.validation_sample, "eval_seed": self.eval_seed}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        sample = state.get("validation_sample", self.validation_sample)  # earlier checkpoints have neither
        self.check_content(state["content"], sample, state.get("eval_seed", self.eval_seed))

    def check_content(self, before: str | None, validation_sample: int | None, eval_seed: int) -> None:
        """Raise a UserError where the Examples are not those of `before` (None: not known).

        validation_sample, eval_seed: those it was made with; a command may type others, which change no source.
        """
        if before not in (None, self._content(validation_sample, eval_seed)):
            raise UserError(
                f"{self.dataset.name}: the Examples are not those that this run began with: its source was changed. "
                "Choose another folder (out=FOLDER), or move the run's elsewhere to keep it."
            )


def _drawn(examples: list[Example], count: int | None, seed: int) -> list[Example]:
    return examples if count is None else shuffled(examples, seed)[:count]
