"""Train one run: read the data, plan the steps, put an adapter on the base, fit it, save it."""

import functools
from collections.abc import Callable
from typing import Any

from torch import nn

from llama_exp.data import DATASETS
from llama_exp.evaluation.after_training import forgetting_request, with_validation
from llama_exp.evaluation.recipe import evaluate_model
from llama_exp.evaluation.request import EvaluationRequest
from llama_exp.model.base import check_length
from llama_exp.model.kernels.decoder_layer import keep_in_memory
from llama_exp.model.memory import choose, most_careful
from llama_exp.overlap.audit import find_overlap, report_overlap
from llama_exp.runs.provenance import provenance
from llama_exp.runs.run import Outcome, Run
from llama_exp.session import Session
from llama_exp.tracking import Trackers, tracking
from llama_exp.training.module import FineTuningModule
from llama_exp.training.summary import save_part, save_run
from llama_exp.training.trainer import build_trainer, check_targets, fit


def read_data(run: Run, session: Session):
    """The run's DataModule, set up: rows read, cleaned, split and sampled."""
    config = run.config
    check_targets(config)
    data = DATASETS.of(config, session.tokenizer(config.model), session.data)
    data.setup()
    print(data.describe(), flush=True)
    return data


def plan(run: Run, data, session: Session) -> dict[str, Any] | None:
    """Encode the sample and plan the run's steps; return its overlap with the held-out items."""
    config = run.config
    data.plan_steps(config.trainer.get("max_epochs"), config.trainer.get("max_steps"), config.max_tokens)
    for lost in filter(None, (data.reaching_training(), data.shortened_prompts())):
        print(f"  {lost}", flush=True)
    return find_overlap(config, data, session.audits, run.folder)


def train_run(
    run: Run, data, overlap: dict[str, Any] | None, base: Callable[[], nn.Module], session: Session
) -> Outcome | None:
    """Fit an adapter and save it; None where another process has finished the run in the meantime.

    base() waits for the loaded base.
    """
    config = run.config
    with run.clock("load"):
        check_length(base(), config.max_length)
    with run.lock():
        if run.is_finished or not session.processes.begin():
            return None
        with session.processes.noticing():
            return _train_begun(run, data, overlap, base(), session)


def _train_begun(run: Run, data, overlap: dict[str, Any] | None, base: nn.Module, session: Session) -> Outcome:
    """The same, once all processes are ready."""
    config = run.config
    if session.processes.is_first:
        start_records(run, data, overlap)
    memory = most_careful(session.processes.gather(choose(base, config, data.plan)))
    data.micro_batch = memory.micro_batch
    if memory.why:
        print(f"  memory: {memory.why}", flush=True)
    model = session.bases.spare.attach(base, config.lora, config.seed, memory.recompute)
    try:
        module = FineTuningModule(model, config.optimizer, data.plan.total_steps, config.seed, data.plan.usual_labels)
        with tracking(run, config, "train", data.counts["sample"]["used"]) as trackers:
            trainer = build_trainer(run, data, base, trackers, session)
            draw = functools.partial(session.pages.submit, at_once=trackers.show_figures)
            if session.processes.is_first and not trackers.show_figures:
                session.pages.prepare()
            with session.stop.deferred():
                kept = memory.cache_weights, memory.save_activations, config.optimizer.fp8_backward
                with run.clock("train"), keep_in_memory(base, *kept):
                    fitted = fit(run, trainer, module, data, trackers, session)
                if fitted.is_part:
                    outcome = save_part(run, trainer, data, fitted, draw)
                    trackers.log_status(fitted.status)
                    trackers.log_losses()
                    return outcome
                message = save_run(run, trainer, module, data, fitted, draw)
            trackers.log_training()
            if config.evaluate and trainer.is_global_zero:
                message = evaluate_tuned(run, model, data, session, trackers).message
        return Outcome(message, run.folder)
    finally:
        session.bases.spare.detach(model)


def evaluate_tuned(run: Run, model: nn.Module, data, session: Session, trackers: Trackers) -> Outcome:
    """Score the model in memory: on validation, on what is reported, and what it forgot where that is asked."""
    *_, outcome = [
        evaluate_model(EvaluationRequest(run, wanted), model, data.tokenizer, data, trackers)
        for wanted in with_validation(run.config)
    ]
    if forgotten := forgetting_request(run, run.config):
        other = DATASETS.of(forgotten.config, data.tokenizer, session.data)
        other.setup()
        evaluate_model(forgotten, model, data.tokenizer, other, trackers)
    return outcome


def start_records(run: Run, data, overlap: dict[str, Any] | None) -> None:
    """What is written before training: config.yaml, sample.json, audit.json."""
    provenance()  # of the code that runs, before somebody edits it
    run.write_config()
    run.write_sample([example.id for example in data.train])
    report_overlap(run.config, data, overlap, run.folder)
