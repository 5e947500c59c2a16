"""Weights & Biases: the summary holds the scores, a table the replies, an artifact the adapter.

WANDB_MODE decides: online, offline, disabled (nothing is started or written); without it, online where there is a key.
"""

import json
import math
import netrc
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from llama_exp.errors import UserError
from llama_exp.runs.run import Run
from llama_exp.tracking.content import ADAPTER_FILES, EVALUATION_FILES, shareable
from llama_exp.tracking.description import Description
from llama_exp.tracking.tracker import Tracker

# Neither this machine's paths nor what the terminal shows belong on a dashboard.
QUIET = {"console": "off", "x_disable_machine_info": True, "disable_git": True, "disable_code": True}
OFFLINE = ("offline", "dryrun")
FINISH_SECONDS = 300.0  # for what is not uploaded yet when a run ends; WANDB_FINISH_TIMEOUT says otherwise


def is_disabled(given: Mapping[str, Any]) -> bool:
    """given: the settings of logger=wandb."""
    return _asked(given) == "disabled"


def _asked(given: Mapping[str, Any]) -> str:
    return str(given.get("mode") or os.environ.get("WANDB_MODE") or "").lower()


def mode(given: Mapping[str, Any]) -> str:
    """online or offline, for a logger that is not disabled.

    Raises UserError where online is asked for and there is no key: nobody is asked for one in the middle of a command.
    """
    asked = _asked(given)
    if asked in OFFLINE or given.get("offline"):
        return "offline"
    if has_key():
        return "online"
    if asked:
        raise UserError(
            f"logger=wandb: WANDB_MODE={asked}, and there is no key. Type `wandb login`, set WANDB_API_KEY, or set "
            "WANDB_MODE=offline and upload the run later (wandb sync)."
        )
    return "offline"


def has_key() -> bool:
    if os.environ.get("WANDB_API_KEY") or os.environ.get("WANDB_IDENTITY_TOKEN_FILE"):
        return True
    host = urlsplit(os.environ.get("WANDB_BASE_URL") or "https://api.wandb.ai").hostname or ""
    try:
        return netrc.netrc(os.environ.get("NETRC")).authenticators(host) is not None
    except (OSError, netrc.NetrcParseError):
        return False


def own_settings() -> dict[str, Any]:
    """Those of every run. W&B itself would wait without end for a server that has stopped answering."""
    asked = {} if os.environ.get("WANDB_FINISH_TIMEOUT") else {"finish_timeout": FINISH_SECONDS}
    return {**QUIET, "finish_timeout_raises": True, **asked}


class WandbTracker(Tracker):
    advice = (
        "WANDB_MODE=offline logs without a server (wandb sync uploads later); WANDB_MODE=disabled or logger=none logs "
        "nothing"
    )
    holds_artifacts = True

    def __init__(self, name: str, kind: Any, given: dict[str, Any], described: Description | None):
        given = {key: value for key, value in given.items() if key not in ("mode", "offline")} | {
            "offline": mode(given) == "offline"
        }
        super().__init__(name, kind, given, described)

    def arguments(self, kind: Any, described: Description) -> dict[str, Any]:
        import wandb

        return {
            "save_dir": str(described.folder),
            "name": described.name,
            "id": described.id,
            "resume": "allow",
            "group": described.group,
            "job_type": described.job,
            "tags": described.tags,
            "config": described.config,
            "settings": wandb.Settings(**own_settings()),
        }

    def start(self) -> None:
        run = self.logger.experiment
        run.define_metric("examples")  # axes beside the optimizer step
        run.define_metric("tokens")
        self.best = math.inf

    def log_metrics(self, values: Mapping[str, float], step: int) -> None:
        super().log_metrics(values, step)
        self._log_best([values])

    def _log_best(self, rows: Sequence[Mapping[str, float]]) -> None:
        """A plain number to filter by, which W&B's own summary of a metric (`validation_loss.min`) is not."""
        best = min((row["validation_loss"] for row in rows if "validation_loss" in row), default=math.inf)
        if best < self.best:
            self.best = best
            self.log_summary({"best_validation_loss": best})

    def log_earlier(self, rows: Sequence[Mapping[str, float]], have_all: bool) -> None:
        """Offline, W&B writes in blocks, and a kill costs the last one: its steps are logged again. A server has
        them."""
        if self.logger.experiment.settings._offline and not have_all:
            for row in rows:
                super().log_metrics({key: of for key, of in row.items() if key != "step"}, int(row["step"]))
        self._log_best(rows)

    def log_status(self, status: str) -> None:
        self.logger.experiment.summary.update({"status": status})

    def log_summary(self, values: Mapping[str, float]) -> None:
        self.logger.experiment.summary.update(dict(values))

    def log_best(self, best: float, last: float) -> None:
        self.log_summary({"best_validation_loss": best, "validation_loss": last})

    def log_table(self, name: str, columns: Sequence[str], rows: Sequence[Sequence[Any]], step: int | None) -> None:
        import wandb

        at = {} if step is None else {"trainer/global_step": step}
        self.logger.experiment.log({name: wandb.Table(columns=list(columns), data=[list(row) for row in rows]), **at})

    def log_figure(self, name: str, picture: Path, page: Path) -> None:
        import wandb

        page_text = page.read_text(encoding="utf-8")
        self.logger.experiment.log(
            {f"{name}/figure": wandb.Image(str(picture)), f"{name}/page": wandb.Html(page_text, inject=False)}
        )

    def _artifact_name(self) -> str:
        return f"adapter-{self.description.id}"

    def log_adapter(self, run: Run) -> None:
        import wandb

        artifact = wandb.Artifact(self._artifact_name(), type="model", metadata={"run": run.name, **_checksums(run)})
        _add(artifact, run.adapter, ADAPTER_FILES)
        self.logger.experiment.log_artifact(artifact)

    def log_evaluation(self, run: Run, folder: Path, prefix: str) -> None:
        """An artifact of the results; W&B's lineage goes from the adapter through this run to it, where it can be
        known: offline there is no adapter on a server to point to, and the metadata alone says which it was."""
        import wandb

        experiment = self.logger.experiment
        if not run.is_untuned and not experiment.settings._offline:
            experiment.use_artifact(f"{self._artifact_name()}:latest")
        metadata = {"evaluation": prefix, "adapter": self._artifact_name(), **_checksums(run)}
        name = f"evaluation-{prefix.replace('/', '-')}-{self.description.id}"
        artifact = wandb.Artifact(name, type="evaluation", metadata=metadata)
        _add(artifact, folder, EVALUATION_FILES)
        experiment.log_artifact(artifact)

    def finish(self, code: int) -> None:
        super().finish(code)
        run = self.logger.experiment
        try:
            run.finish(exit_code=code)
        except TimeoutError:
            where = run.settings.sync_dir
            raise TimeoutError(f"the server did not take everything in time; later: wandb sync {where}") from None


def _add(artifact: Any, folder: Path, names: Sequence[str]) -> None:
    for name, content in shareable(folder, names):
        if isinstance(content, Path):
            artifact.add_file(str(content), name)
        else:
            with artifact.new_file(name) as file:
                json.dump(content, file, indent=2)


def _checksums(run: Run) -> dict[str, Any]:
    return {"sha256": run.summary.adapter if run.summary else {}}
