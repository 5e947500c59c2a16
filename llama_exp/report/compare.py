"""Which scores may be compared: runs are sorted into comparisons, panels and cells (cells.py).

Runs that differ in size, rank and seeds alone share a panel. Whatever differs beyond that is a panel of its own; a key
that merely follows the rank (alpha = 2r) may stay in one panel, with a note. Panels that answered the
same held-out items share a comparison.
"""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, replace
from itertools import groupby
from typing import Any

from llama_exp.config.identity import IDENTITY_WHERE_STOPPED
from llama_exp.metrics import METRICS, by_importance, describe, load
from llama_exp.report.cells import Cell, Comparison, Panel, ScoredRun
from llama_exp.report.load import EvaluationRecord, RunRecord, load_item_ids
from llama_exp.report.tuning import choose_settings
from llama_exp.sanitize import as_dict

AXES = {"sample", "lora.r", "seed", "data_seed"}
# Keys that change which items are held out or how they are prompted; and whatever begins with "dataset.cleaning.".
TEST_KEYS = (
    "eval_sample",
    "eval_seed",
    "dataset.source",
    "dataset.path",
    "dataset.subset",
    "dataset.revision",
    "dataset.task",
    "dataset.rows",
    "dataset.test",
    "dataset.validation",
    "dataset.split_seed",
    "dataset.hub",
    "dataset.max_new_tokens",
    "dataset.template",
    "dataset.system",
)
USABLE = {"finished", "stopped early", "untuned"}


def comparisons(runs: Iterable[RunRecord], metric: str | None = None) -> list[Comparison]:
    """All scores that may be set side by side: test splits first, then the largest.

    `metric` is drawn; default: the dataset's own.
    """
    usable = [r for r in runs if r.status in USABLE and r.rank is not None]
    scored = [ScoredRun(r, e, _validation_of(r, e), _forgetting_of(r, e)) for r in usable for e in r.evaluations]
    untuned = [s for s in scored if s.run.rank == 0]
    by_test: dict[tuple, list[ScoredRun]] = {}
    for one in scored:
        if one.run.rank != 0:
            test = _test(one)
            # the same settings twice, or a copied folder
            if any(other.run.folder == one.run.folder for other in by_test.get(test, ())):
                test = (*test[:-1], (*test[-1], ("evaluation", one.evaluation.name)))
            by_test.setdefault(test, []).append(one)
    found = [(test, members, [s for s in untuned if _same_items(s, members[0])]) for test, members in by_test.items()]
    claimed = {id(s) for _, _, mine in found for s in mine}
    alone: dict[tuple, list[ScoredRun]] = {}
    for one in untuned:
        if id(one) not in claimed:
            alone.setdefault(_test(one), []).append(one)
    found += [(test, [], mine) for test, mine in alone.items()]
    made = []
    for test, members, mine in found:
        like = [dict(t[-1]) for t, _, _ in found if t[:3] == test[:3]]
        # Where all items were used no seed drew them: that sets nothing apart.
        apart = {k: v for k, v in test[-1] if any(other.get(k, v if k == "eval_seed" else None) != v for other in like)}
        made.append(_comparison(test, members, mine, metric, apart))
    chosen_by = {one.validation.folder for c in made if c.validated for one in c.runs() if one.validation}
    made = [c for c in made if not {one.evaluation.folder for one in c.runs()} <= chosen_by and not _is_column(c)]
    cells = {id(c): sum(len(p.cells) for p in c.panels) for c in made}
    made.sort(
        key=lambda c: (
            c.dataset,
            c.split != "test",
            c.trained_on != c.dataset,
            c.trained_on,
            -cells[id(c)],
            str(c.keys),
        )
    )
    return made


def _forgetting_of(run: RunRecord, evaluation: EvaluationRecord) -> EvaluationRecord | None:
    """The same run's loss on other data; of several the one on most items."""
    found = [e for e in run.evaluations if _is_forgetting(run, e) and e.dataset != evaluation.dataset]
    return max(found, key=lambda e: (e.items or 0, e.name), default=None)


def _is_forgetting(run: RunRecord, evaluation: EvaluationRecord) -> bool:
    return evaluation.dataset != run.dataset and not evaluation.results.generated and "loss" in evaluation.scores


def _is_column(c: Comparison) -> bool:
    """Whether it is the loss on data that the runs were not tuned on, which is a column of another comparison."""
    return all(_is_forgetting(one.run, one.evaluation) and len(one.run.evaluations) > 1 for one in c.runs())


def _validation_of(run: RunRecord, evaluation: EvaluationRecord) -> EvaluationRecord | None:
    """The same run's largest evaluation of validation Examples that are read and prompted like these."""
    if evaluation.split == "validation":
        return None

    def read_as(e: EvaluationRecord) -> dict[str, str]:
        settings = _settings(ScoredRun(run, e))
        return {key: settings[key] for key in settings.keys() - {"eval_sample", "eval_seed", "evaluation"}}

    alike = [
        e
        for e in run.evaluations
        if (e.split, e.dataset) == ("validation", evaluation.dataset) and read_as(e) == read_as(evaluation)
    ]
    return max(alike, key=lambda e: e.items or 0, default=None)


def _on_same_validation(scored: list[ScoredRun]) -> list[ScoredRun]:
    """Without the validation scores on other Examples than most have."""
    items = {id(one): _test(ScoredRun(one.run, one.validation))[2:] for one in scored if one.validation}
    usual = max(items.values(), key=Counter(items.values()).__getitem__, default=None)
    return [replace(one, validation=None) if items.get(id(one), usual) != usual else one for one in scored]


def _test(one: ScoredRun) -> tuple:
    """What must be equal for two scores to be about the same held-out items."""
    e = one.evaluation
    return e.dataset, e.trained_on, e.split, e.items, e.groups, tuple(sorted(_settings(one).items()))


def _settings(one: ScoredRun) -> dict[str, str]:
    """How the items were chosen, prompted and scored: as stored with the evaluation, else what run and folder show."""
    e = one.evaluation
    stored = e.results.evaluation
    facts = {key: str(value) for key, value in comparable_facts(e).items()}
    if stored:
        values = {k: str(v) for k, v in stored.items() if k in TEST_KEYS or k.startswith("dataset.cleaning.")}
        return {k: v for k, v in values.items() if k != "eval_seed" or stored.get("eval_sample")} | facts
    known = one.run.identity if one.run.rank and e.trained_on == e.dataset else {}
    return {"evaluation": e.name} | {k: str(known[k]) for k in TEST_KEYS if k in known} | facts


def comparable_facts(e: EvaluationRecord) -> dict[str, Any]:
    """{"bertscore.model": …}: facts that must be equal for the scores of two evaluations to be comparable."""
    return {
        f"{family}.{key}": e.results.facts.get(family, {}).get(key, "not recorded")
        for family in sorted(METRICS.keys() & {name.split("/")[0] for name in e.scores})
        for key in load(family).comparable_facts
    }


def _same_items(untuned: ScoredRun, other: ScoredRun) -> bool:
    """Whether the untuned model answered what the other did: the same keys, and the same ids where both are on disk."""
    a, b = untuned.evaluation, other.evaluation
    if (a.dataset, a.split, a.items) != (b.dataset, b.split, b.items):
        return False
    mine, theirs = _settings(untuned), _settings(other)
    if any(mine[key] != theirs[key] for key in mine.keys() & theirs.keys() - {"evaluation"}):
        return False
    ids, other_ids = load_item_ids(a), load_item_ids(b)
    return ids is None or other_ids is None or ids == other_ids


def _comparison(
    test: tuple, members: list[ScoredRun], untuned: list[ScoredRun], metric: str | None, keys: dict[str, str]
) -> Comparison:
    dataset, trained_on, split, items, groups, _ = test
    both = _on_same_validation(members + untuned)
    members, untuned = both[: len(members)], both[len(members) :]
    evaluations = [one.evaluation for one in members + untuned]
    declared = {name: facts for e in evaluations for name, facts in e.results.declared.items()}
    metrics = tuple(by_importance(dict.fromkeys(name for e in evaluations for name in e.scores), declared))
    chosen = metric if metric in metrics else metrics[0] if metrics else "loss"
    lower = describe(chosen, declared).lower_is_better
    panels = []
    by_model = sorted(members, key=lambda s: s.run.model)
    for model, group in groupby(by_model, key=lambda s: s.run.model):
        panels += choose_settings(_panels(model, list(group), untuned), chosen, lower)
    drawn = {p.baseline.key for p in panels if p.baseline}
    for one in untuned:
        if one.evaluation.folder not in drawn:
            several = sum(other.run.folder == one.run.folder for other in untuned) > 1
            keys_of_one = {"evaluation": one.evaluation.name} if several else {}
            panels.append(Panel(one.run.model, keys_of_one, {}, (), Cell(0, None, (one,))))
    return Comparison(dataset, trained_on, split, items, groups, chosen, metrics, tuple(panels), keys, declared)


def _panels(model: str, members: list[ScoredRun], untuned: list[ScoredRun]) -> list[Panel]:
    facets, following = differing([s.run for s in members])

    def facet(one: ScoredRun) -> str:
        return str([one.run.identity.get(k) for k in facets])

    panels = []
    for _, grouped in groupby(sorted(members, key=facet), key=facet):
        group = list(grouped)
        first = group[0].run.identity
        cells = []
        for (rank, examples), scored in groupby(sorted(group, key=_rank_and_size), key=_rank_and_size):
            same = tuple(scored)
            cells.append(Cell(rank, examples or None, same, whole=any(_whole(s.run) for s in same)))
        alike = (
            s for s in untuned if s.run.model == model and _same_model(s.run, group[0].run) and _same_rows(s, group)
        )
        mine = tuple(alike)[:1]
        baseline = Cell(0, None, mine) if mine else None
        follows = {k: {s.run.rank or 0: s.run.identity.get(k) for s in group} for k in following}
        follows = {k: v for k, v in follows.items() if len(set(map(str, v.values()))) > 1}
        panels.append(Panel(model, {k: first.get(k) for k in facets}, follows, tuple(cells), baseline))
    return panels


def differing(runs: list[RunRecord]) -> tuple[list[str], list[str]]:
    """Identity keys whose values differ between runs: those that split panels, and those that only follow the rank."""
    facets: list[str] = []
    following: list[str] = []
    for key in sorted({k for r in runs for k in r.identity} - AXES):
        by_rank: dict[int | None, set[str]] = {}
        for run in runs:
            if key in run.identity or key not in IDENTITY_WHERE_STOPPED:  # else it decides nothing in that run
                by_rank.setdefault(run.rank, set()).add(str(run.identity.get(key)))
        if len(set.union(*by_rank.values())) > 1:
            (following if all(len(v) == 1 for v in by_rank.values()) else facets).append(key)
    return facets, following


def _rank_and_size(one: ScoredRun) -> tuple[int, int]:
    return one.run.rank or 0, one.run.examples or 0


def _whole(run: RunRecord) -> bool:
    return run.sample is None or as_dict(run.summary.counts, "train").get("available", -1) == run.examples


def _same_model(untuned: RunRecord, tuned: RunRecord) -> bool:
    shared = [k for k in untuned.identity if k.startswith("model.") and k in tuned.identity]
    return all(untuned.identity[k] == tuned.identity[k] for k in shared)


def _same_rows(untuned: ScoredRun, tuned: list[ScoredRun]) -> bool:
    """Whether the untuned model was evaluated in rows as long as the tuned ones, where both are known."""
    mine, *theirs = (s.evaluation.results.evaluation.get("max_length") for s in (untuned, *tuned))
    return mine is None or None in theirs or mine in theirs


@dataclass(frozen=True, slots=True)
class RunGroup:
    """Runs that differ in size, rank and seeds alone, evaluated or not."""

    dataset: str
    model: str
    keys: dict[str, Any]
    runs: tuple[RunRecord, ...]


def group_runs(runs: Iterable[RunRecord]) -> list[RunGroup]:
    """Fine-tuning runs by what they have in common: dataset, model and training keys."""
    tuned = sorted((r for r in runs if r.rank), key=lambda r: (r.dataset, r.model))
    found = []
    for (dataset, model), grouped in groupby(tuned, key=lambda r: (r.dataset, r.model)):
        group = list(grouped)
        facets, _ = differing(group)
        by_keys: dict[str, list[RunRecord]] = {}
        for run in group:
            by_keys.setdefault(str([run.identity.get(k) for k in facets]), []).append(run)
        found += [
            RunGroup(dataset, model, {k: g[0].identity.get(k) for k in facets}, tuple(g)) for g in by_keys.values()
        ]
    return found
