"""Score one run on held-out Examples: find it, let it reply, score the replies."""

import dataclasses
from collections.abc import Iterator
from pathlib import Path

from llama_exp import metrics
from llama_exp.config.compose import typed_keys
from llama_exp.config.schema import Config, Split
from llama_exp.data import DATASETS, sources
from llama_exp.errors import UserError
from llama_exp.evaluation.after_training import forgetting_request
from llama_exp.evaluation.auto_metrics import with_metrics, with_metrics_of
from llama_exp.evaluation.replies import COST, reply_to_all
from llama_exp.evaluation.request import EvaluationRequest, metric_settings
from llama_exp.evaluation.results import is_up_to_date, save_results, stored_results
from llama_exp.evaluation.scoring import format_scores, intervals_as_dicts, read_official_predictions, score
from llama_exp.formatting import plural
from llama_exp.model import hardware
from llama_exp.runs.files import read_predictions, remove_leftovers
from llama_exp.runs.find import find_run
from llama_exp.runs.lock import lock_folder
from llama_exp.runs.results import Results
from llama_exp.runs.run import Outcome, Run
from llama_exp.session import Session
from llama_exp.tracking import Trackers, already_logged, tracking


def evaluate(config: Config, session: Session | None = None) -> Outcome:
    """Score the run that the config means, or the predictions file that it names; with `forgetting`, also its loss on
    other data."""
    return evaluate_file(config) if config.predictions else evaluate_all([config], session or Session())


def evaluate_all(configs: list[Config], session: Session) -> Outcome:
    """Several evaluations of one run, logged as one; returns the outcome of the last."""
    command = configs[0]
    run = find_run(command) if command.lora.r else Run.untuned(command)
    requests = [request for config in configs for request in _requests(run, config, session)]
    if already_logged(run, command, {request.label: request.folder for request in requests}):
        command = dataclasses.replace(command, logger={})
    with tracking(run, command, "evaluate", run.training_examples.get("sampled")) as trackers:
        *_, outcome = [_evaluate_request(request, session, trackers) for request in requests]
    return outcome


def _requests(run: Run, config: Config, session: Session) -> Iterator[EvaluationRequest]:
    config = with_metrics_of(config, run.config)
    if forgotten := forgetting_request(run, config):
        yield forgotten
    request = EvaluationRequest.of(config, run)
    yield dataclasses.replace(request, config=with_metrics(request.config, session))


def _evaluate_request(request: EvaluationRequest, session: Session, trackers: Trackers) -> Outcome:
    remove_leftovers(request.folder)
    if results := stored_results(request.folder):
        return reuse(request, results, trackers)
    hardware.check(request.config)
    sources.check(request.config.dataset)
    metrics.check(request.config.dataset.metrics, metric_settings(request.config))
    return _load_and_evaluate(request, session, trackers)


def _load_and_evaluate(request: EvaluationRequest, session: Session, trackers: Trackers) -> Outcome:
    config, run = request.config, request.run
    with session.loading_base(run.config.model, config.trainer) as base:
        from llama_exp.model.base import check_length  # torch: after `loading_base` has imported it, which is faster
        from llama_exp.model.lora import detach_lora, load_lora

        tokenizer = session.tokenizer(run.config.model)
        data = DATASETS.of(config, tokenizer, session.data)
        data.setup()
    check_length(base(), config.max_length)
    model = base() if run.is_untuned else load_lora(base(), run.adapter)
    try:
        return evaluate_model(request, model, tokenizer, data, trackers)
    finally:
        detach_lora(model)


def evaluate_model(request: EvaluationRequest, model, tokenizer, data, trackers: Trackers) -> Outcome:
    """The same for a model in memory."""
    config = request.config
    if results := stored_results(request.folder):
        return reuse(request, results, trackers)
    examples = data.held_out(config.split.value, config.eval_sample)
    typed = "split" if config.split is Split.validation else "eval_sample"
    if config.eval_sample and config.eval_sample > len(examples) and typed in typed_keys():
        print(
            f"  eval_sample={config.eval_sample}: there are {len(examples)} held-out Examples; all are used.",
            flush=True,
        )
    with lock_folder(request.folder):
        if results := stored_results(request.folder):  # by another process in the meantime
            return reuse(request, results, trackers)
        predictions, cost, lost = reply_to_all(request, examples, data, model)
        results = save_results(request, predictions, cost, lost)
    if lost or results.unmeasured:
        print(
            f"  {lost} answers were cut away with their context; {results.unmeasured} responses have no loss, being "
            f"empty or too long for max_length={config.max_length}.",
            flush=True,
        )
    return _announce(request, results, trackers)


def reuse(request: EvaluationRequest, results: Results, trackers: Trackers) -> Outcome:
    """An evaluation that is there already; its replies are scored again where other metrics or settings are
    requested."""
    request.check_same(results)
    if is_up_to_date(request, results):
        return _announce(request, results, trackers, "already evaluated: ")
    predictions = read_predictions(request.folder / "predictions.jsonl")
    cost = {key: getattr(results, key) for key in COST}
    results = save_results(request, predictions, cost, results.answers_lost)
    return _announce(request, results, trackers, "scored again from its predictions: ")


def _announce(request: EvaluationRequest, results: Results, trackers: Trackers, how: str = "") -> Outcome:
    message = how + format_scores(results)
    trackers.log_evaluation(request.label, request.folder, results, request.config.dataset.template)
    print(f"{request.folder}: {message}", flush=True)
    return Outcome(message, request.run.folder)


def evaluate_file(config: Config) -> Outcome:
    """Score a predictions file in the official format, {id: text}, against the held-out references."""
    if config.dataset.name != "squad":
        raise UserError(
            f"predictions=FILE is SQuAD's format; dataset={config.dataset.name} has none. Type dataset=squad."
        )
    path = Path(config.predictions or "")
    if not path.is_file():
        raise UserError(f"predictions={path}: no such file.")
    config = with_metrics(config, Session())
    data = DATASETS.of(config)
    data.setup()
    examples = data.held_out(config.split.value, config.eval_sample)
    all_ids = {example.id for example in data.held_out(config.split.value)}
    predictions, counts = read_official_predictions(path, examples, all_ids)
    scored = score(predictions, config)
    for name, value in scored.values.items():
        interval = scored.intervals[name]
        print(f"{name} {value:.10f}  ({interval}, {plural(interval.clusters, 'article')})")
    for reason in dict.fromkeys(interval.note for interval in scored.intervals.values() if interval.low is None):
        print(f"No interval: {reason}.")
    ignored = f"{counts['unknown_ids']} unknown ids ignored."
    if counts["not_drawn"]:
        ignored = f"{counts['not_drawn']} questions not in eval_sample={config.eval_sample} and {ignored}"
    print(f"{len(examples)} questions; {counts['missing_ids']} without an answer (they score 0); {ignored}", flush=True)
    results = Results(scores={**scored.values}, intervals=intervals_as_dicts(scored))
    return Outcome(format_scores(results), path)
