"""What a sweep leaves on W&B when its cells and its report are done."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from llama_exp.dashboard.command import PROJECT, DashboardOptions, dashboard
from llama_exp.errors import UserError
from llama_exp.sanitize import clean
from llama_exp.tracking import wanted_loggers


def wandb_settings(logger: Mapping[str, Any]) -> dict[str, Any] | None:
    """The arguments of logger=wandb; None without it, or where it is disabled."""
    return next((given for _, kind, given in wanted_loggers(logger) if kind == "WandbLogger"), None)


def end_sweep(outputs: Path, sweep: str, logger: Mapping[str, Any], dashboard_too: bool) -> None:
    """The summary run where logger=wandb is typed, the dashboard where dashboard=true is: what fails is printed, for
    the sweep itself is done."""
    settings = wandb_settings(logger)
    if settings is not None:
        _attempt("The summary run was not logged", lambda: _summary_run(outputs, sweep, settings))
    if dashboard_too:
        place = settings or {}
        options = DashboardOptions(
            str(outputs), str(place.get("entity") or ""), str(place.get("project") or PROJECT), sweep
        )
        _attempt(
            f"The dashboard was not saved (later: llama-exp dashboard {clean(outputs)})", lambda: dashboard(options)
        )


def _summary_run(outputs: Path, sweep: str, settings: Mapping[str, Any]) -> None:
    from llama_exp.dashboard.summary_run import log_summary_run  # wandb: a second

    log_summary_run(outputs, sweep, {"project": PROJECT, **settings})


def _attempt(failure: str, action: Callable[[], None]) -> None:
    try:
        action()
    except UserError as error:
        print(f"{failure}: {error}", flush=True)
    except Exception as error:
        print(f"{failure}: {type(error).__name__}: {clean(error)}", flush=True)
