"""Saves the view and the report on a server, or writes them to a file."""

import contextlib
import dataclasses
import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

from llama_exp.dashboard.answers import last_sweep, load_answers
from llama_exp.dashboard.command import DashboardOptions
from llama_exp.errors import UserError
from llama_exp.programs import install
from llama_exp.report.answer import Answer
from llama_exp.runs.files import read_json_or_nothing, write_json
from llama_exp.sanitize import as_dict, clean

SECONDS = 30  # to wait for an answer of the server


def memory(folder: Path) -> tuple[Path, dict[str, Any]]:
    """The file in report/ that knows what was saved before, and what it holds: {"entity/project": {"view": address,
    "report": address}, "summary runs": {sweep: id}}."""
    path = folder / "dashboard.json"
    return path, read_json_or_nothing(path)


def save_dashboard(options: DashboardOptions) -> None:
    answers = load_answers(Path(options.outputs))
    workspace = _import_workspace()
    sweep = options.sweep or last_sweep(Path(options.outputs))
    place = workspace.Place(options.entity, options.project, "" if sweep == "all" else sweep)
    if options.json:
        write_json(Path(options.json), specs(answers, place))
        return print(f"Dashboard: {clean(options.json)}", flush=True)
    api = log_in("Without an account, json=FILE writes the dashboard")
    place = dataclasses.replace(place, entity=place.entity or api.default_entity)
    try:
        save(api, answers, place, Path(options.outputs, "report"))
    except Exception as error:  # a dozen types, from GraphQL to HTTP
        raise UserError(
            f"The dashboard of {clean(place)} could not be saved: {_first_line(error)}. Is the name right, the server "
            "reachable? json=FILE writes the dashboard without it."
        ) from None


def log_in(otherwise: str) -> Any:
    """The server's API, or a UserError that ends with the sentence `otherwise`."""
    import wandb

    try:
        return wandb.Api(timeout=SECONDS)
    except wandb.errors.UsageError as error:
        advice = "Type `wandb login`, or put WANDB_API_KEY into the environment"
        raise UserError(f"Not logged in to W&B ({_first_line(error)}). {advice}. {otherwise}.") from None
    except wandb.errors.Error as error:
        advice = "Is the server reachable? Another key: `wandb login --relogin`"
        raise UserError(f"Cannot log in to W&B ({_first_line(error)}). {advice}. {otherwise}.") from None


def _first_line(error: Exception) -> str:
    return clean(str(error).strip().split("\n")[0].rstrip("."))


def create_chart(api: Any, entity: str) -> None:
    """The preset that draws the chart with error bars, once for an entity."""
    from llama_exp.dashboard import chart

    try:
        api.create_custom_chart(
            entity=entity,
            name=chart.PRESET,
            display_name="llama_exp: learning curve",
            spec_type="vega2",
            access="private",
            spec=chart.preset(),
        )
    except Exception as error:
        if "exist" not in str(error).lower():
            raise


def _load(from_url: Callable[[str], Any], address: Any) -> Any:
    """What an earlier command saved; None where there was none, or somebody deleted it."""
    try:
        return from_url(address) if isinstance(address, str) else None
    except Exception as error:
        print(f"{clean(address)} is gone ({_first_line(error)}): a new one is made.", flush=True)
        return None


def _import_workspace() -> Any:
    try:
        from llama_exp.dashboard import workspace
    except ImportError as error:
        raise UserError(f"The dashboard needs {error.name}. Install it: {install('dashboard')}") from None
    return workspace


def specs(answers: list[Answer], place: Any) -> dict[str, Any]:
    """What would be saved: {"view": …, "report": …, "chart": …}."""
    from llama_exp.dashboard import chart, workspace

    models: dict[str, Any] = {"view": workspace.view_of(answers, place), "report": workspace.report_of(answers, place)}
    found = {name: model._to_model().spec for name, model in models.items()}
    return {
        **{name: spec.model_dump(mode="json", by_alias=True, exclude_none=True) for name, spec in found.items()},
        "chart": {"name": chart.PRESET, "spec": chart.preset()},
    }


def save(api: Any, answers: list[Answer], place: Any, folder: Path) -> None:
    """Save view, report and chart; the ones that report/ remembers are updated, unless somebody deleted them."""
    from wandb_workspaces.reports.v2 import Report
    from wandb_workspaces.workspaces import Workspace

    from llama_exp.dashboard.workspace import report_of, view_of

    path, known = memory(folder)
    here = as_dict(known, str(place))
    create_chart(api, place.entity)
    old = {"view": _load(Workspace.from_url, here.get("view")), "report": _load(Report.from_url, here.get("report"))}
    new: dict[str, Any] = {
        "view": view_of(answers, place, old["view"]),
        "report": report_of(answers, place, old["report"]),
    }
    for name, part in new.items():
        with contextlib.redirect_stderr(io.StringIO()):  # wandb prints the address, too
            here[name] = part.save().url
        write_json(path, {**known, str(place): here})
        print(f"{name.capitalize()} {'updated' if old[name] else 'created'}: {here[name]}", flush=True)
