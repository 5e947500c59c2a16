"""What the evaluations of a study have measured of its items already: BERTScore and ROUGE need not be computed again.

    evaluation/scores.jsonl, results.json  ->  study/metrics.json   {"bertscore": {"scores": {score: {condition: {item: value}}},
                                                                                   "facts": {…}}}

Taken when the study is made, so that nothing that happens to the evaluations later changes what people are compared with.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from llama_exp.errors import UserError
from llama_exp.human.study import REFERENCE, Item
from llama_exp.records import Prediction
from llama_exp.report.compare import ENCODER
from llama_exp.runs.scores import read_scores

CHEAP = ("squad", "decision")  # no model, no library: computed at every report


def carried(read: Mapping[str, tuple[list[Prediction], dict[str, Any]]], items: Mapping[str, Item]) -> dict[str, Any]:
    """metrics.json of a study. `read` is {condition: (predictions, what is known of it)}.

    A metric is taken where every evaluation has it by the same encoder, for the items that have a reference.
    """
    evaluations = {name: one for name, one in read.items() if one[1]["folder"] != REFERENCE}
    shared = set.intersection(*({*about["metrics"]} for _, about in evaluations.values()))
    measured = {name: of_items(*one) for name, one in evaluations.items()} if shared - {*CHEAP} else {}
    found = {}
    for metric in sorted(shared - {*CHEAP}):
        facts = [about.get("facts", {}).get(metric, {}) for _, about in evaluations.values()]
        if any([one.get(key) for key in ENCODER] != [facts[0].get(key) for key in ENCODER] for one in facts):
            continue
        names = set.intersection(*({*scores} for scores in measured.values()))
        scores = {
            name: {
                condition: {item.id: of[name][item.id] for item in items.values() if item.references}
                for condition, of in measured.items()
            }
            for name in sorted(names)
            if name.startswith(f"{metric}/")
        }
        if scores:
            found[metric] = {"scores": scores, "facts": {key: facts[0][key] for key in ENCODER if key in facts[0]}}
    return found


def of_items(predictions: list[Prediction], about: Mapping[str, Any]) -> dict[str, dict[str, float]]:
    """{score: {item: value}} of an evaluation; {} where it kept none."""
    try:
        kept = read_scores(Path(about["folder"]), predictions)
    except UserError:
        return {}
    return {name: dict(zip((p.id for p in predictions), values, strict=True)) for name, values in kept.items()}
