"""The one life-cycle of every dataset: load, clean, split, sample; then encode and load in batches.

    rows --read--> Examples --split by group--> train | validation | test --sample--> train[:sample]

A dataset declares itself on it: which columns it needs, which upstream split is held out, and `read(row)`.
"""

import copy
import dataclasses
import functools
import hashlib
from collections import Counter
from typing import Any

from lightning import LightningDataModule

from llama_exp.config.schema import Config, DatasetConfig, Source
from llama_exp.data import sources
from llama_exp.data.chat_format import check_template
from llama_exp.data.cleaning import Cleaner
from llama_exp.data.packing import Plan, StepSampler, step_loader, whole_loader
from llama_exp.data.splitting import carve, shuffled
from llama_exp.errors import UserError
from llama_exp.records import Example, Tokens

HELD_OUT_FIRST = ("test", "validation", "train")  # who keeps a duplicate or a group that lies on two sides

VALIDATED_AT_ONCE = 4096  # tokens

_last_encoded: dict[str, tuple[tuple, list[Example], list[Tokens], dict[str, int]]] = {}  # by split
_last_read: dict[tuple, tuple[dict[str, list[Example]], dict[str, Any]]] = {}


def text(value: Any) -> str:
    """A cell as stripped text; "" where there is nothing (None, NaN)."""
    return "" if value is None or value != value else str(value).strip()


class ExampleDataModule(LightningDataModule):
    """Three splits of Examples from one dataset.

    After `setup()`: `train` (the sample), `available` (what it was drawn from), `validation`, `test`: list[Example];
    `counts`: what was read, cleaned, dropped and kept, as plain dicts (stored with the run; `describe()` prints it).

    sample             training Examples, None = all; samples of one `data_seed` nest
    validation_sample  Examples that validation loss is measured on, drawn by `eval_seed`; None = all

    Raises UserError: unknown template field, cleaning rule or task; unreadable source; missing column; empty split.
    """

    columns: tuple[str, ...]  # that `read` needs
    fields: tuple[str, ...]  # that a template may name
    tasks: tuple[str, ...] = ("answer",)  # what `read` can make of a row; the first is the default
    answers_in_context = False  # whether a response is a span of the context, so that a shortened one may lose it
    splits: dict[str, str]  # ours -> upstream's; what is not there is carved out of train by group

    def __init__(
        self,
        dataset: DatasetConfig,
        tokenizer=None,
        *,
        max_length: int = 1024,
        batch: int = 16,
        micro_batch: int | None = None,
        sample: int | None = None,
        seed: int = 0,
        data_seed: int = 0,
        eval_seed: int = 0,
        validation_sample: int | None = None,
    ):
        super().__init__()
        self.dataset, self.tokenizer = dataset, tokenizer
        self.max_length, self.batch, self.micro_batch = max_length, batch, micro_batch or batch
        self.sample, self.validation_sample = sample, validation_sample
        self.seed, self.data_seed, self.eval_seed = seed, data_seed, eval_seed
        self.clean = Cleaner(dataset.cleaning)
        self.counts: dict[str, Any] = {}
        self._dropped: Counter[str] = Counter()
        self._encoded: dict[str, list[Tokens]] = {}
        self._ready = False
        check_template(dataset.template, self.fields)
        if dataset.task not in self.tasks:
            raise UserError(f"Unknown dataset.task={dataset.task} for {dataset.name}; known: {', '.join(self.tasks)}.")

    # -- what a dataset declares ---------------------------------------------------------------------------------------

    def read(self, row: dict) -> list[Example]:
        """One raw row as Examples. Nothing after this sees a row."""
        raise NotImplementedError

    def regroup(self, examples: list[Example]) -> list[Example]:
        """Hook: Examples of all splits with new groups, where a row alone does not tell its group."""
        return examples

    def rows_on_disk(self) -> sources.Rows:
        """Hook: rows by upstream split from `dataset.path`."""
        return sources.from_path(self.dataset.path, self.dataset.subset, self.columns)

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
        """All Examples by split. The cells of a sweep share them: only the last source read is kept in memory."""
        source = (type(self), repr(self.dataset), sources.fingerprint(self.dataset.path))
        if source not in _last_read:
            examples = self._read(self._rows())
            self._split(examples)
            _last_read.clear()
            _last_read[source] = examples, self.counts
        examples, counts = _last_read[source]
        self.counts = copy.deepcopy(counts)
        return examples

    def held_out(self, split: str, count: int | None = None) -> list[Example]:
        """`count` Examples of validation or test, drawn by `eval_seed` alone; None = all, in their order."""
        examples = self.validation if split == "validation" else self.test
        return examples if count is None else shuffled(examples, self.eval_seed)[:count]

    def _rows(self) -> sources.Rows:
        """Raw rows by our name of the split."""
        data = self.dataset
        if data.source is Source.synthetic:
            return sources.synthetic(data)
        if data.path:
            found = self.rows_on_disk()
        else:
            found = sources.from_hub(data.hub, data.subset, data.revision, self.columns)
        ours = {split: found[theirs] for split, theirs in self.splits.items() if theirs in found}
        if not ours.get("train"):
            there = ", ".join(f"{name} ({len(rows)} rows)" for name, rows in found.items())
            wanted = f"wanted a split {self.splits['train']!r} with rows"
            raise UserError(f"{data.path or data.hub}: {wanted}; there are {there}.")
        return ours

    def _read(self, rows: sources.Rows) -> dict[str, list[Example]]:
        """Rows to Examples with unique ids, duplicates dropped, groups final."""
        self.counts = {"rows": {split: len(of_split) for split, of_split in rows.items()}, "dropped": {}}
        seen: set[tuple] = set()
        ids: Counter[str] = Counter()
        flat: list[tuple[str, Example]] = []
        for split in (split for split in HELD_OUT_FIRST if split in rows):
            self._dropped.clear()
            for number, row in enumerate(rows[split], 1):
                for example in self._examples(row, f"row {number:,} of {split}"):
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
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            said = f"{type(error).__name__}: {error}"
            raise UserError(
                f"{self.dataset.name}: {where} has not the shape wanted ({said}).\n{self.__doc__}"
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
        words = (example.prompt, example.response, example.history)
        if words not in seen:
            seen.add(words)
            return False
        self.clean.repeated(len(example.prompt) + len(example.response))
        return True

    def _split(self, examples: dict[str, list[Example]]) -> None:
        """Carve what the source lacks out of train, by group; then see that no group is on two sides."""
        whole = len(examples["train"])
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
                f"Give a source with more, or with a {split} split of its own."
            )
        return kept, carved

    def describe(self) -> str:
        """What was read, cleaned, dropped and kept, for a person."""
        counts = self.counts
        rows = ", ".join(f"{n:,} {split}" for split, n in counts["rows"].items())
        lines = [f"{self.dataset.name}: {rows} rows"]
        for split, reasons in counts["dropped"].items():
            lines += [f"  dropped from {split}: {n:,} ({reason})" for reason, n in reasons.items()]
        lines += [
            f"  cleaning {name}: {did['rows']:,} rows, {did['characters']:,} characters"
            for name, did in counts.get("cleaning", {}).items()
        ]
        if self._ready:
            lines.append("  Examples: " + ", ".join(f"{n:,} {split}" for split, n in counts["examples"].items()))
            asked, available = counts["sample"]["asked"], counts["sample"]["available"]
            if asked and asked > available:
                lines.append(f"  sample={asked:,} is more than the {available:,} there are: all {available:,} are used")
        return "\n".join(lines)

    # -- encode and load -----------------------------------------------------------------------------------------------

    def encoded(self, split: str) -> list[Tokens]:
        """The split's Examples as Tokens, encoded once; what was shortened or dropped goes to `counts["encoded"]`.

        The cells of a sweep that learn the same Examples share them.
        """
        if split not in self._encoded:
            from llama_exp.data.encoding import encode_all

            examples = {
                "train": self.train,
                "test": self.test,
                "validation": self.held_out("validation", self.validation_sample),
            }[split]
            settings = self.tokenizer, self.max_length, self.dataset.max_new_tokens, self.answers_in_context
            if split not in _last_encoded or _last_encoded[split][:2] != (settings, examples):
                tokens, counts = encode_all(examples, *settings)
                _last_encoded[split] = settings, examples, tokens, counts
            *_, self._encoded[split], counts = _last_encoded[split]
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

    @functools.cached_property
    def content(self) -> str:
        """A hash of what is learnt and what validation is measured on: tells that a source was changed behind its name."""
        digest = hashlib.sha256()
        for example in [*self.train, *self.held_out("validation", self.validation_sample)]:
            digest.update(repr(example).encode("utf-8", "surrogatepass"))
        return digest.hexdigest()[:32]

    def state_dict(self) -> dict[str, str]:
        return {"content": self.content}

    def load_state_dict(self, state: dict[str, str]) -> None:
        self.check_content(state["content"])

    def check_content(self, before: str | None) -> None:
        """Stop where the Examples are not those of `before` (None: not known)."""
        if before not in (None, self.content):
            raise UserError(
                f"{self.dataset.name}: the Examples are not those that this run began with: its source was changed. "
                "Choose another folder (out=FOLDER), or delete the run's."
            )

    @classmethod
    def of(cls, config: Config, tokenizer=None) -> "ExampleDataModule":
        """The data of one cell."""
        return cls(
            config.dataset,
            tokenizer,
            max_length=config.max_length,
            batch=config.batch,
            micro_batch=config.micro_batch,
            sample=config.sample,
            seed=config.seed,
            data_seed=config.data_seed,
            eval_seed=config.eval_seed,
            validation_sample=config.validation_sample,
        )

    def plan_steps(self, max_epochs: int | None, max_steps: int | None, max_tokens: int | None) -> int:
        """The run's length in steps: whichever of the budgets ends first. None and -1 are no budget."""
        self.plan = Plan(self.encoded("train"), self.batch, self.seed, max_epochs, max_steps, max_tokens)
        return self.plan.total_steps

    def train_dataloader(self):
        """Batches of the whole run, epoch after epoch; after a resume, from the first one not yet learnt."""
        trainer = self.trainer
        if not hasattr(self, "plan"):  # a LightningModule of someone else's: Lightning counts the epochs
            self.plan_steps(max_epochs=1, max_steps=None, max_tokens=None)
        sampler = StepSampler(self.plan, self.micro_batch, trainer.global_rank, trainer.world_size)
        sampler.start = lambda: trainer.fit_loop.epoch_loop.batch_progress.total.ready
        return step_loader(self.encoded("train"), sampler)

    def val_dataloader(self):
        trainer = self.trainer
        return whole_loader(self.encoded("validation"), VALIDATED_AT_ONCE, trainer.global_rank, trainer.world_size)
