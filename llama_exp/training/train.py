"""The train command: what can be decided before anything heavy is imported; `recipe` does the rest."""

import dataclasses

from llama_exp import metrics
from llama_exp.config.compose import config_dirs, default_config, typed_keys
from llama_exp.config.schema import Config, Source
from llama_exp.data import DATASETS, sources
from llama_exp.errors import UserError
from llama_exp.evaluation.after_training import forgetting_request, with_validation
from llama_exp.evaluation.auto_metrics import with_metrics
from llama_exp.evaluation.request import metric_settings
from llama_exp.model import hardware
from llama_exp.programs import program
from llama_exp.runs.files import remove_leftovers
from llama_exp.runs.run import Outcome, Run
from llama_exp.session import Session
from llama_exp.tracking import joins_sweep, tracking, usable_loggers
from llama_exp.training.ending import draw_missing
from llama_exp.training.part import already_there


def train(config: Config, session: Session | None = None) -> Outcome:
    """Train the run that the config describes, unless it is finished already; with evaluate=true score it, too."""
    session = session or Session()
    check(config)
    config = with_metrics(with_own_licence(config), session)
    check_monitor(config)  # again, where the metrics were chosen by the data
    run = Run.of(config)
    if run.is_untuned:
        return _untuned(run, session)
    run.check_owner()
    remove_leftovers(run.folder)
    run.put_aside_damaged_adapter()
    if forgotten := forgetting_request(run, config):  # what cannot be read is said before anything is trained
        DATASETS.of(forgotten.config, cache=session.data).setup()
    if run.is_finished:
        return _already_finished(run, session)
    if part := already_there(run):
        return part
    session.processes.start(config.trainer, [word for folder in config_dirs() for word in ("--config-dir", folder)])
    outcome = load_and_train(run, session)
    if isinstance(outcome, Config):
        return train(outcome, session)
    return outcome or _already_finished(run, session)


def follow(session: Session) -> None:
    """Take part in what the first process of this command trains: the other processes of trainer=ddp."""

    def train_share(config: Config) -> None:
        session.stop.install(config.stop_signal)
        load_and_train(Run.of(config), session)

    session.processes.follow(train_share)


def load_and_train(run: Run, session: Session) -> Outcome | Config | None:
    """Import, load the base, read the data and train: what every process of a run does.

    A Config where the cell has another name, None where another command has finished it in the meantime.
    """
    config = run.config
    with run.clock("import"):
        from llama_exp.model.imports import import_all

        import_all()
        from llama_exp.model.base import check_gpu, target_device
        from llama_exp.model.kernels.warmup import warm_up

    def prepare(base) -> None:
        warm_up(base, config.lora.r, config.optimizer.fp8_backward)
        session.bases.spare.draw_ahead(base, config.lora, config.seed)

    with session.processes.cell(config):
        check_gpu(config, target_device(config.trainer))
        # The base loads in a thread while this one imports Lightning and reads the data.
        with session.loading_base(config.model, config.trainer, lambda: run.clock("load"), prepare) as base:
            with run.clock("import"):
                from llama_exp.training import recipe
            with run.clock("data"):
                data = recipe.read_data(run, session)
            if config.sample and config.sample >= len(data.available):  # one name for one cell
                print(session.all_examples(config.sample, len(data.available)), flush=True)
                return dataclasses.replace(config, sample=None)
            with run.clock("data"):
                overlap = recipe.plan(run, data, session)
        return recipe.train_run(run, data, overlap, base, session)


def check(config: Config) -> None:
    """Raise UserError for what cannot work on this machine or with these files."""
    if foreign := [key for key in ("trained_on", "predictions") if getattr(config, key)]:
        raise UserError(
            f"{foreign[0]}= is a key of evaluate: {program('evaluate')} … {foreign[0]}={getattr(config, foreign[0])}"
        )
    hardware.check(config)
    sources.check(config.dataset)
    usable_loggers(config)
    check_monitor(config)
    if config.forgetting and not config.evaluate:
        raise UserError(f"forgetting={config.forgetting} is measured by the evaluation: add evaluate=true.")
    if config.evaluate:
        forgetting_request(Run.of(config), config)
        metrics.check(config.dataset.metrics, metric_settings(config))


def check_monitor(config: Config) -> None:
    """Raise UserError for validation_scores that cannot be measured here, or a monitor that is none of them."""
    if not config.validation_scores or metrics.AUTO in config.dataset.metrics:
        return
    metrics.check(config.dataset.metrics, metric_settings(config))
    known = [score for name in config.dataset.metrics for score in metrics.load(name).scores]
    if not known:
        raise UserError(
            f"validation_scores={config.validation_scores}: dataset={config.dataset.name} has no metrics. Name some, "
            "dataset.metrics=[rouge], or leave it out: validation loss is measured all the same."
        )
    if config.monitor not in ("validation_loss", *known):
        raise UserError(f"monitor={config.monitor}: wanted validation_loss, or one of {', '.join(known)}.")


def with_own_licence(config: Config) -> Config:
    """The config without the licence of the dataset it is named after, where the rows are others and none was typed."""
    usual = default_config({"dataset": config.dataset.name, "model": config.model.name})  # as in Run.of
    mine, preset = config.dataset, usual.dataset
    same_rows = mine.source is Source.synthetic or (mine.path, mine.hub) == (preset.path, preset.hub)
    if same_rows or not preset.licence or mine.licence != preset.licence or "dataset.licence" in typed_keys():
        return config
    print(
        f"  dataset={mine.name} gives your rows its template, cleaning, splits and metrics, but not its licence "
        f"({preset.licence}) nor advice on its use: type dataset.licence=… for the model card.",
        flush=True,
    )
    return dataclasses.replace(config, dataset=dataclasses.replace(mine, licence=""))


def _untuned(run: Run, session: Session) -> Outcome:
    """Rank 0: nothing to train; with evaluate=true the base model is scored, so a sweep can hold its own baseline."""
    if not run.config.evaluate:
        print("Nothing to train at lora.r=0, the untuned model; evaluate=true scores it.", flush=True)
    return _evaluated(run, "untuned", session)


def _already_finished(run: Run, session: Session) -> Outcome:
    """Raises UserError where the files that the run was trained on have changed: their path alone does not tell."""
    if run.config.dataset.path:
        data = DATASETS.of(run.config, cache=session.data)
        data.setup()
        trained = Run.load(run.folder).config
        data.check_content(run.summary.content, trained.validation_sample, trained.eval_seed)
    print(f"{run.folder}: already finished", flush=True)
    draw_missing(run, session.pages.submit)
    if joins_sweep(run) and not run.config.evaluate:
        with tracking(run, run.config, "train", run.training_examples.get("sampled")):
            pass  # its loggers learn of the sweep
    return _evaluated(run, "already finished", session)


def _evaluated(run: Run, message: str, session: Session) -> Outcome:
    if run.config.evaluate:
        from llama_exp.evaluation.recipe import evaluate_all  # scipy: not before the base is being loaded

        outcome = evaluate_all(with_validation(run.config), session)
        message += f"; {outcome.message}"
    return Outcome(message, run.folder)
