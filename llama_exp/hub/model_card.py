"""The page of a published model, made from what its run recorded: nothing in it is typed by hand.

The wording is in model_card.md; this file collects what stands in it. No path of this machine and no key that is not
part of the run's identity gets in.
"""

import dataclasses
import json
import shutil
from contextlib import suppress
from pathlib import Path
from typing import Any

from llama_exp.chat.session import Wording
from llama_exp.config.schema import Config, Source
from llama_exp.data.chat_format import user_text
from llama_exp.errors import UserError
from llama_exp.formatting import join_list
from llama_exp.hub.upload import MARK
from llama_exp.report.compare import comparisons
from llama_exp.report.load import EvaluationRecord, load_runs
from llama_exp.runs.files import atomic_write
from llama_exp.runs.summary import read_summary
from llama_exp.sanitize import clean

TEMPLATE = Path(__file__).parent / "model_card.md"
TINY = "llama_exp/tiny"
LICENCES = {"Llama 2 Community Licence": "llama2", "MIT": "mit", "Apache-2.0": "apache-2.0"}
NOTICE = """Llama 2 is licensed under the LLAMA 2 Community License,
Copyright (c) Meta Platforms, Inc. All Rights Reserved.

The agreement: https://ai.meta.com/llama/license/
The acceptable use policy: https://ai.meta.com/llama/use-policy/
"""
LEGAL = ("LICENSE.txt", "LICENSE", "USE_POLICY.md")  # as Meta's own repositories call them


def is_llama2(config: Config) -> bool:
    return config.model.licence.lower().startswith("llama 2")


def on_hub(config: Config) -> bool:
    """Whether the base is a repository of the hub, not a folder or the model in this package."""
    path = config.model.path
    return path != TINY and path.count("/") == 1 and not path.startswith((".", "/", "~")) and not Path(path).is_dir()


def base_name(config: Config) -> str:
    """The base as others know it; of a folder only its name."""
    return config.model.path if on_hub(config) or config.model.path == TINY else Path(config.model.path).resolve().name


def write_notice(config: Config, folder: Path) -> None:
    """NOTICE, as section 1.b.iii of the agreement wants it, and the agreement itself where the base came with it."""
    (folder / "NOTICE").write_text(NOTICE, encoding="utf-8")
    for name in LEGAL:
        with suppress(Exception):  # not there, not cached, not allowed: NOTICE says where it is
            if on_hub(config):
                from huggingface_hub import try_to_load_from_cache

                found = try_to_load_from_cache(config.model.path, name, revision=config.model.revision)
            else:
                found = str(Path(config.model.path) / name)
            shutil.copyfile(found, folder / name)


# By the run's precision: in another, replies may differ.
DTYPES = {"32": "float32", "bf16": "bfloat16", "16": "float16"}


def write_card(
    path: Path, run: Path, trained: Config, repo: str, comparison: dict[str, Any] | None, outputs: Path
) -> None:
    """README.md: metadata for the hub, then the page. `comparison` is that of a merged model; None for an adapter.

    `outputs` is where evaluations of the untuned model may lie.
    """
    from huggingface_hub import ModelCard
    from jinja2 import ChainableUndefined, Environment

    stored = read_summary(run)
    summary = dataclasses.asdict(stored) if stored else {}
    evaluations, untuned = read_evaluations(run), untuned_beside(run, outputs)
    wording = Wording.of(trained)
    page = Environment(trim_blocks=True, lstrip_blocks=True, undefined=ChainableUndefined, keep_trailing_newline=True)
    text = page.from_string(TEMPLATE.read_text(encoding="utf-8")).render(
        card_data=metadata(trained, repo, evaluations, merged=comparison is not None).to_yaml(),
        name=repo.split("/")[-1],
        repo=repo,
        c=trained,
        base=base_name(trained),
        on_hub=on_hub(trained),
        tiny=TINY,
        llama2=is_llama2(trained),
        synthetic=trained.dataset.source is Source.synthetic,
        comparison=comparison,
        data=data_name(trained),
        summary=summary,
        train=summary.get("counts", {}).get("train", {}),
        seconds=summary.get("seconds", {}),
        evaluations=[table(e, untuned.get(e["folder"])) for e in evaluations],
        prompt=repr(user_text("MESSAGE", wording.system)),
        template=wording.template,
        keys=keys(summary),
        dtype=DTYPES.get(str(summary.get("precision")).split("-")[0], "bfloat16"),
        cleaning=sorted(name for name, on in trained.dataset.cleaning.items() if on),
    )
    with atomic_write(path) as file:
        file.write(str(ModelCard(text)))  # which reads the head back: it is good YAML


def read_evaluations(run: Path) -> list[dict[str, Any]]:
    """Every results.json of the run, and its "folder"; test splits and its own dataset first."""
    found = []
    for path in sorted(run.glob("eval/*/results.json")):
        try:
            found.append(json.loads(path.read_text(encoding="utf-8")))
            found[-1]["scores"].items()
            found[-1]["folder"] = path.parent
        except (OSError, ValueError, KeyError, AttributeError):
            raise UserError(f"{path} is not whole. Delete {path.parent} and evaluate again.") from None
    return sorted(found, key=lambda e: (e.get("split") != "test", e.get("dataset") != e.get("trained_on")))


def untuned_beside(run: Path, outputs: Path) -> dict[Path, EvaluationRecord]:
    """{folder of an evaluation of the run: what the untuned model scores on the same items}, where that is known."""
    found = load_runs(run)[0] + [one for one in load_runs(outputs)[0] if one.rank == 0]
    return {
        one.evaluation.folder: panel.baseline.scored[0].evaluation
        for comparison in comparisons(found)
        for panel in comparison.panels
        if panel.baseline
        for setting in panel.cells
        for one in setting.scored
    }


def table(evaluation: dict[str, Any], untuned: EvaluationRecord | None = None) -> dict[str, Any]:
    """What the page says of one evaluation, beside the untuned model where that answered the same items."""
    intervals = evaluation.get("intervals", {})
    rows = []
    for name, value in evaluation["scores"].items():
        low, high = (intervals.get(name, {}).get(end) for end in ("low", "high"))
        places = {"loss": 4, "perplexity": 2}.get(name, 1)
        row = [clean(name, 60), "not known" if value is None else f"{value:.{places}f}", _span(low, high, places)]
        if untuned:
            base, ends = untuned.scores.get(name), untuned.intervals.get(name)
            row += [
                "not known" if base is None else f"{base:.{places}f}",
                _span(ends and ends.low, ends and ends.high, places),
            ]
        rows.append(row)
    asked = evaluation.get("evaluation", {})
    return {
        **evaluation,
        "rows": rows,
        "untuned": untuned is not None,
        "synthetic": asked.get("dataset.source") == Source.synthetic.value,
        "facts": [f"{name}: {_pairs(facts)}" for name, facts in evaluation.get("facts", {}).items() if facts],
    }


def _pairs(facts: dict[str, Any]) -> str:
    """`model roberta-large, layer 17, versions bert-score 0.3.13 and transformers 5.23.0`."""
    said = {
        name: join_list(f"{clean(k)} {clean(v)}" for k, v in value.items()) if isinstance(value, dict) else clean(value)
        for name, value in facts.items()
    }
    return ", ".join(f"{clean(name)} {value}" for name, value in said.items())


def _span(low: float | None, high: float | None, places: int) -> str:
    return "not known" if low is None or high is None else f"{low:.{places}f} to {high:.{places}f}"


def data_name(config: Config) -> str:
    dataset = config.dataset
    if dataset.source is Source.synthetic:
        return f"rows made by rule in the format of {dataset.name} ({dataset.rows:,} rows before splitting)"
    if dataset.path:
        return f"{Path(dataset.path).name}, a local copy in the format of {dataset.hub}"
    return dataset.hub + (f", {dataset.subset}" if dataset.subset else "")


def keys(summary: dict[str, Any]) -> dict[str, Any]:
    """The run's identity, a line a key; of paths only the last part."""
    shown = {}
    for key, value in sorted(summary.get("identity", {}).items()):
        if value is not None and key != "dataset.template":
            is_path = key in ("dataset.path", "model.path") and value != TINY
            shown[key] = clean(Path(str(value)).name if is_path else value, 120)
    return shown


def dataset_of(evaluation: dict[str, Any]) -> dict[str, str]:
    """The hub's names of what was evaluated on. Synthetic rows and local copies are not the hub's dataset."""
    name, asked = evaluation["dataset"], evaluation.get("evaluation", {})
    if asked.get("dataset.source") == Source.synthetic.value:
        kind, name = "synthetic", f"{name} (synthetic rows)"
    else:
        kind = name if asked.get("dataset.path") else asked.get("dataset.hub", name)
    return {"dataset_type": kind, "dataset_name": name, "dataset_split": evaluation["split"]}


def metadata(config: Config, repo: str, evaluations: list[dict[str, Any]], merged: bool):
    """The hub's YAML head: licence, base, data and scores, so that the hub can list and link them."""
    from huggingface_hub import EvalResult, ModelCardData

    real = config.dataset.source is Source.hub and not config.dataset.path
    results = [
        EvalResult(
            task_type="text-generation",
            **dataset_of(e),
            metric_type=name,
            metric_name=name,
            metric_value=round(value, 4),
        )
        for e in evaluations
        for name, value in e["scores"].items()
        if value is not None
    ]
    licence = LICENCES.get(config.model.licence)
    return ModelCardData(
        model_name=repo.split("/")[-1],
        license=licence or "other",
        **({} if licence else {"license_name": config.model.licence}),
        base_model=config.model.path if on_hub(config) else None,
        base_model_relation=("merge" if merged else "adapter") if on_hub(config) else None,
        datasets=[config.dataset.hub] if real else None,
        library_name="transformers" if merged else "peft",
        pipeline_tag="text-generation",
        tags=["lora", MARK, *(["llama-2"] if is_llama2(config) else [])],
        eval_results=results or None,
    )
