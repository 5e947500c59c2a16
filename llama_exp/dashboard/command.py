"""The commands dashboard and sync."""

from dataclasses import dataclass

from llama_exp.config.options import option

PROJECT = "llama_exp"  # as in conf/logger/wandb.yaml


@dataclass(frozen=True)
class DashboardOptions:
    outputs: str = option("outputs", "folder with the runs and their report", positional=True)
    entity: str = option("", "user or team on W&B; empty: your default one")
    project: str = option(PROJECT, "project on W&B that the runs were logged to")
    sweep: str = option(
        "", "runs with the tag sweep:ID; empty: the last sweep in the folder; all: every run of the project"
    )
    json: str = option("", "write the dashboard to this file, without account and network", shown="FILE")


def dashboard(options: DashboardOptions) -> None:
    """Save the answer of a sweep on Weights & Biases: a view of the project's workspace, and a report:

        llama-exp dashboard outputs=outputs entity=ENTITY project=llama_exp
        llama-exp dashboard json=dashboard.json          writes what would be saved, asks no server

    Needs report/answer.json (llama-exp report) and, for pictures in it, runs trained with logger=wandb and uploaded
    (llama-exp sync). The same command again updates the same view and report. More: docs/dashboards.md.
    """
    from llama_exp.dashboard.save import save_dashboard  # wandb: a second

    save_dashboard(options)


@dataclass(frozen=True)
class SyncOptions:
    outputs: str = option("outputs", "folder with the runs", positional=True)
    entity: str = option("", "upload to this user or team; empty: the one that was logged")
    project: str = option("", "upload to this project; empty: the one that was logged")
    dry_run: bool = option(False, "true: only list what would be uploaded")


def sync(options: SyncOptions) -> int:
    """Upload the runs that were logged offline to Weights & Biases, in the order in which they were started:

        llama-exp sync outputs=outputs
        llama-exp sync outputs=outputs dry_run=true

    A run that was resumed or evaluated later has several parts: they are one run there. What was uploaded before is
    left out, so the same command continues after a broken connection. Exit code 1: not everything was uploaded.
    """
    from llama_exp.dashboard.sync import sync_runs

    return sync_runs(options)
