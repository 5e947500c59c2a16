"""The model card of a published run, made from its own records: nothing in it is typed by hand.

model_card.md is the template; this file collects its values. No path of this machine and no key outside the run's
identity gets in.
"""

import dataclasses
import re
import shutil
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any

from huggingface_hub import EvalResult, ModelCard, ModelCardData, try_to_load_from_cache
from jinja2 import ChainableUndefined, Environment, FileSystemLoader

from llama_exp.chat.session import PromptFormat
from llama_exp.config.schema import Config, Source
from llama_exp.data.chat_format import PLAIN, user_text
from llama_exp.errors import UserError
from llama_exp.formatting import format_count, join_list
from llama_exp.hub.upload import TAG
from llama_exp.metrics import by_importance, describe
from llama_exp.report.compare import comparisons
from llama_exp.report.load import EvaluationRecord, load_runs
from llama_exp.runs.files import atomic_write, read_text
from llama_exp.runs.results import Results, read_results
from llama_exp.runs.run import Run
from llama_exp.sanitize import clean, reason

TINY = "llama_exp/tiny"
LICENCES = {"MIT": "mit", "Apache-2.0": "apache-2.0"}
LICENCE_FILES = ("LICENSE.txt", "LICENSE", "USE_POLICY.md")  # as in Meta's own repositories
LLAMA = re.compile(r"llama[-_ ]?(2|3(?:\.\d)?)(?![\d.]*[bm](?![a-z]))", re.IGNORECASE)  # Llama-3.1-8B, not llama_3b
DTYPES = {
    "32": "float32",
    "bf16": "bfloat16",
    "16": "float16",
}  # by the run's precision: in another, replies may differ
UNKNOWN = "unknown"


@dataclasses.dataclass(frozen=True)
class Agreement:
    """What Meta's licence of a Llama asks of who publishes a model made with it (its sections 1.b.i and 1.b.iii)."""

    version: str  # 2, 3, 3.1, 3.2, 3.3

    @property
    def tag(self) -> str:
        """The hub's name of the licence."""
        return f"llama{self.version}"

    @property
    def attribution(self) -> str:
        llama, licence = {"2": ("Llama 2", "LLAMA 2"), "3": ("Meta Llama 3", "Meta Llama 3")}.get(
            self.version, (f"Llama {self.version}", f"Llama {self.version}")
        )
        holder = "Copyright (c) Meta Platforms, Inc. All Rights Reserved."
        return f"{llama} is licensed under the {licence} Community License, {holder}"

    @property
    def built_with(self) -> str:
        """What is to be shown prominently; "" for Llama 2."""
        return {"2": "", "3": "Built with Meta Llama 3"}.get(self.version, "Built with Llama")

    @property
    def prefix(self) -> str:
        """What the model's name is to begin with; "" for Llama 2."""
        return {"2": "", "3": "Llama-3"}.get(self.version, "Llama")

    @property
    def address(self) -> str:
        return {"2": "https://ai.meta.com/llama"}.get(
            self.version, f"https://www.llama.com/llama{self.version.replace('.', '_')}"
        )

    @property
    def notice(self) -> str:
        addresses = f"The agreement: {self.address}/license/\nThe acceptable use policy: {self.address}/use-policy/\n"
        return "\n\n".join(filter(None, (self.attribution, self.built_with, addresses)))


def agreement(config: Config) -> Agreement | None:
    """Meta's licence of the base: by `model.licence`, else the card in the base's folder, else the base's name."""
    licence = config.model.licence if config.model.licence != UNKNOWN else declared_licence(Path(config.model.path))
    found = LLAMA.search(licence or base_name(config).split("/")[-1])
    return Agreement(found[1]) if found else None


def declared_licence(folder: Path) -> str:
    """The licence that a copy of a hub repository declares in its README.md; "" for none."""
    with suppress(OSError, ValueError):  # no file, or no YAML in it
        card = ModelCard(read_text(folder / "README.md"), ignore_metadata_errors=True)
        names = (card.data.get("license"), card.data.get("license_name"))
        return " ".join(str(name) for name in names if name)
    return ""


def check_model_name(config: Config, repo: str) -> None:
    """Raise a UserError for a name that Meta's licence does not allow for a model made with this base."""
    terms = agreement(config)
    owner, _, name = repo.rpartition("/")
    if terms and not re.sub("[-_.]", "", name.lower()).startswith(terms.prefix.lower().replace("-", "")):
        right = f"{owner}/{terms.prefix}-{name}".removeprefix("/")
        raise UserError(
            f"repo={repo}: the base is Llama {terms.version}, and its licence wants a name that begins with "
            f"{terms.prefix!r}. Type repo={right}"
        )


def is_on_hub(config: Config) -> bool:
    """Whether the base is a repository on the hub, not a folder or the model in this package."""
    path = config.model.path
    return path != TINY and path.count("/") == 1 and not path.startswith((".", "/", "~")) and not Path(path).is_dir()


def base_name(config: Config) -> str:
    """The base as others know it; of a folder only its name."""
    path = config.model.path
    return path if is_on_hub(config) or path == TINY else Path(path).resolve().name


def write_notice(config: Config, folder: Path) -> None:
    """NOTICE, required by section 1.b.iii of Meta's agreements, and the agreement itself where the base came with it.
    Nothing for a base that is no Llama of Meta's."""
    if not (terms := agreement(config)):
        return
    (folder / "NOTICE").write_text(terms.notice, encoding="utf-8")
    for name in LICENCE_FILES:
        with suppress(Exception):  # not there, not cached, not readable: NOTICE has the address
            if is_on_hub(config):
                found = try_to_load_from_cache(config.model.path, name, revision=config.model.revision)
            else:
                found = str(Path(config.model.path) / name)
            shutil.copyfile(found, folder / name)


def write_card(path: Path, run: Run, name: str, comparison: dict[str, Any] | None, outputs: Path) -> None:
    """README.md of the repository `name`: metadata for the hub, then the page.

    `comparison` is that of a merged model, None for an adapter; `outputs` is searched for the untuned model's
    evaluations.
    """
    config, summary = run.config, run.summary
    evaluations, untuned = read_evaluations(run.folder), untuned_evaluations(run.folder, outputs)
    prompt_format = PromptFormat.of(config)
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=ChainableUndefined,
        keep_trailing_newline=True,
    )
    environment.filters["count"] = lambda value: format_count(value or 0)
    text = environment.get_template("model_card.md").render(
        card_data=metadata(config, name, evaluations.values(), merged=comparison is not None).to_yaml(),
        repo=name,
        c=config,
        base=base_name(config),
        on_hub=is_on_hub(config),
        tiny=TINY,
        agreement=agreement(config),
        own_tokenizer=(path.parent / "tokenizer.json").is_file(),
        synthetic=config.dataset.source is Source.synthetic,
        comparison=comparison,
        summary=summary,
        train=run.training_examples,
        evaluations=[score_table(results, untuned.get(folder)) for folder, results in evaluations.items()],
        prompt=repr(user_text("MESSAGE", prompt_format.system)),
        chat=summary.chat_format,
        messages=card_messages(prompt_format.system, summary.chat_format.get("system", True)),
        plain=repr(PLAIN),
        template=prompt_format.template,
        identity=public_identity(summary.identity),
        dtype=DTYPES.get(str(summary.precision).split("-")[0], "bfloat16"),
        cleaning=sorted(name for name, on in config.dataset.cleaning.items() if on),
        data_name=data_name(config.dataset.name, config.dataset.path, config.dataset.hub),
        local_copy=Path(config.dataset.path).name if config.dataset.path else None,
    )
    with atomic_write(path) as file:
        file.write(str(ModelCard(text)))  # which parses the metadata: it is valid YAML


def card_messages(system: str, has_system: bool) -> list[dict[str, str]]:
    """The messages that a chat template gets; without a role for the system prompt it opens the user's message."""
    if system and has_system:
        return [{"role": "system", "content": system}, {"role": "user", "content": "MESSAGE"}]
    return [{"role": "user", "content": f"{system}\n\nMESSAGE" if system else "MESSAGE"}]


def read_evaluations(run: Path) -> dict[Path, Results]:
    """{folder: its results}, of every evaluation of a run; test splits and the run's own dataset first."""
    evaluations = {}
    for path in sorted(run.glob("eval/*/results.json")):
        try:
            evaluations[path.parent] = read_results(path.parent)
        except (OSError, ValueError) as error:
            raise UserError(
                f"{path} is damaged ({reason(error)}). The same evaluate command scores the replies beside it again."
            ) from None
    return dict(
        sorted(evaluations.items(), key=lambda one: (one[1].split != "test", one[1].dataset != one[1].trained_on))
    )


def untuned_evaluations(run: Path, outputs: Path) -> dict[Path, EvaluationRecord]:
    """{folder of an evaluation of the run: the untuned model's evaluation on the same items}, where there is one."""
    found = load_runs(run)[0] + [one for one in load_runs(outputs)[0] if one.rank == 0]
    return {
        one.evaluation.folder: panel.baseline.runs[0].evaluation
        for comparison in comparisons(found)
        for panel in comparison.panels
        if panel.baseline
        for cell in panel.cells
        for one in cell.runs
    }


def score_table(results: Results, untuned: EvaluationRecord | None = None) -> dict[str, Any]:
    """The results with the rows of their table, beside the untuned model's scores on the same items where they are
    known."""
    rows = []
    for name in by_importance(results.scores, results.declared):
        value, score = results.scores[name], describe(name, results.declared)
        decimals = score.decimals
        row = [clean(score.label, 60), *_value_and_interval(value, results.intervals.get(name, {}), decimals)]
        if untuned:
            interval = untuned.intervals.get(name)
            ends = {"low": interval.low, "high": interval.high} if interval else {}
            row += _value_and_interval(untuned.scores.get(name), ends, decimals)
        rows.append(row)
    return {
        **dataclasses.asdict(results),
        "rows": rows,
        "untuned": untuned is not None,
        "synthetic": results.evaluation.get("dataset.source") == Source.synthetic.value,
        "file": Path(path).name if (path := results.evaluation.get("dataset.path")) else None,
        "facts": [f"{name}: {_join_facts(facts)}" for name, facts in results.facts.items() if facts],
    }


def _value_and_interval(value: float | None, ends: dict[str, Any], decimals: int) -> list[str]:
    low, high = ends.get("low"), ends.get("high")
    interval = UNKNOWN if low is None or high is None else f"{low:.{decimals}f} to {high:.{decimals}f}"
    return [UNKNOWN if value is None else f"{value:.{decimals}f}", interval]


def _join_facts(facts: dict[str, Any]) -> str:
    """`model roberta-large, layer 17, versions bert-score 0.3.13 and transformers 5.23.0`."""
    texts = {
        name: join_list(f"{clean(k)} {clean(v)}" for k, v in value.items()) if isinstance(value, dict) else clean(value)
        for name, value in facts.items()
    }
    return ", ".join(f"{clean(name)} {text}" for name, text in texts.items())


def public_identity(identity: dict[str, Any]) -> dict[str, str]:
    """The values that make the run what it is, a line each; of paths only the last part."""
    shown = {}
    for key, value in sorted(identity.items()):
        if value is not None and key != "dataset.template":
            is_path = key in ("dataset.path", "model.path") and value != TINY
            shown[key] = clean(Path(str(value)).name if is_path else value, 120)
    return shown


def hub_dataset(results: Results) -> dict[str, str]:
    """The hub's names of what was evaluated on. Synthetic rows and local copies are not the hub's dataset."""
    name, values = results.dataset or UNKNOWN, results.evaluation
    if values.get("dataset.source") == Source.synthetic.value:
        kind, name = "synthetic", f"{name} (synthetic rows)"
    else:
        name = data_name(name, values.get("dataset.path"), values.get("dataset.hub"))
        kind = name if values.get("dataset.path") else values.get("dataset.hub", name)
    return {"dataset_type": kind, "dataset_name": name, "dataset_split": results.split or UNKNOWN}


def data_name(dataset: str, path: str | None, hub: str | None) -> str:
    """What the data are called: of a table its file or repository, else the dataset's name."""
    if dataset != "table":
        return dataset
    return clean(Path(path).name if path else hub or dataset)


def metadata(config: Config, repo: str, evaluations: Iterable[Results], merged: bool):
    """The card's YAML head: licence, base, data and scores, by which the hub lists and links models."""
    from_hub = config.dataset.source is Source.hub and not config.dataset.path
    results = [
        EvalResult(
            task_type="text-generation",
            **hub_dataset(one),
            metric_type=name,
            metric_name=name,
            metric_value=round(value, 4),
        )
        for one in evaluations
        for name, value in one.scores.items()
        if value is not None
    ]
    terms = agreement(config)
    licence = terms.tag if terms else LICENCES.get(config.model.licence)
    relation = "merge" if merged else "adapter"
    return ModelCardData(
        model_name=repo.split("/")[-1],
        license=licence or "other",
        **({} if licence else {"license_name": config.model.licence}),
        base_model=config.model.path if is_on_hub(config) else None,
        base_model_relation=relation if is_on_hub(config) else None,
        datasets=[config.dataset.hub] if from_hub else None,
        library_name="transformers" if merged else "peft",
        pipeline_tag="text-generation",
        tags=["lora", TAG, *([f"llama-{terms.version}"] if terms else [])],
        eval_results=results or None,
    )
