"""MLflow: a sweep is a parent run and its cells are the children; scores are metrics, replies a table, files artifacts.

Without MLFLOW_TRACKING_URI the runs lie in OUTPUTS/mlruns.
"""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from llama_exp.runs.run import Run
from llama_exp.tracking.content import ADAPTER_FILES, EVALUATION_FILES, flat, shareable
from llama_exp.tracking.description import Description
from llama_exp.tracking.tracker import Tracker

LONGEST = 500  # letters of a parameter that every version and store takes
PARENT, SWEEP_TAG, ID_TAG = "mlflow.parentRunId", "llama_exp.sweep", "llama_exp.id"


class MlflowTracker(Tracker):
    advice = "Look at MLFLOW_TRACKING_URI; without it the runs lie in OUTPUTS/mlruns"
    holds_artifacts = True

    def arguments(self, kind: Any, described: Description) -> dict[str, Any]:
        uri = os.environ.get("MLFLOW_TRACKING_URI")
        if not uri:  # MLflow 3.17 and later open a folder only where that is said; a database needs more packages
            os.environ.setdefault("MLFLOW_ALLOW_FILE_STORE", "true")
            uri = (described.outputs.resolve() / "mlruns").as_uri()
        tags = {tag.partition(":")[0]: tag.partition(":")[2] for tag in described.tags if ":" in tag}
        own = {ID_TAG: described.id, "job": described.job, "mlflow.source.name": "llama-exp", **tags}
        return {"tracking_uri": uri, "run_name": described.name, "tags": own}

    def start(self) -> None:
        """Go on with the run of this id, or start one below its sweep's."""
        client, experiment = self._experiment()
        if stored := self._find(client, experiment, ID_TAG, self.description.id):
            self.logger._run_id = stored
        elif self.description.group:
            self.logger.tags = {**self.logger.tags, PARENT: self._parent(client, experiment)}
        run = self.logger.run_id
        for tag in self.description.tags:
            if tag.startswith("sweep:"):
                client.set_tag(run, tag.replace(":", "."), "true")
        values = {key: str(of)[:LONGEST] for key, of in flat(self.description.config).items()}
        known = client.get_run(run).data.params
        self.logger.log_hyperparams({key: of for key, of in values.items() if key not in known})
        client.update_run(run, status="RUNNING")

    def _experiment(self) -> tuple[Any, str]:
        client, name = self.logger._mlflow_client, self.logger._experiment_name
        found = client.get_experiment_by_name(name)
        return client, found.experiment_id if found else client.create_experiment(name)

    def _find(self, client: Any, experiment: str, tag: str, value: str) -> str | None:
        found = client.search_runs([experiment], f"tags.`{tag}` = '{value}'", max_results=1)
        return found[0].info.run_id if found else None

    def _parent(self, client: Any, experiment: str) -> str:
        group = self.description.group
        if known := self._find(client, experiment, SWEEP_TAG, group):
            return known
        tags = {SWEEP_TAG: group, "mlflow.runName": f"sweep {group}", "mlflow.source.name": "llama-exp", "job": "sweep"}
        run = client.create_run(experiment, tags=tags).info.run_id
        client.set_terminated(run)  # it holds its children and does nothing itself
        return run

    def log_status(self, status: str) -> None:
        self.logger.experiment.set_tag(self.logger.run_id, "llama_exp.status", status)

    def log_table(self, name: str, columns: Sequence[str], rows: Sequence[Sequence[Any]], step: int | None) -> None:
        file = f"{name}.json" if step is None else f"{name}-{step}.json"
        table = {"columns": list(columns), "data": [list(row) for row in rows]}  # as MLflow's own log_table writes it
        self.logger.experiment.log_dict(self.logger.run_id, table, file)

    def log_figure(self, name: str, picture: Path, page: Path) -> None:
        for path in (picture, page):
            self.logger.experiment.log_artifact(self.logger.run_id, str(path), name)

    def log_adapter(self, run: Run) -> None:
        self._add(run.adapter, ADAPTER_FILES, "adapter")

    def log_evaluation(self, run: Run, folder: Path, prefix: str) -> None:
        self._add(folder, EVALUATION_FILES, f"evaluation/{prefix}")

    def _add(self, folder: Path, names: Sequence[str], to: str) -> None:
        client, own = self.logger.experiment, self.logger.run_id
        for name, content in shareable(folder, names):
            if isinstance(content, Path):
                client.log_artifact(own, str(content), to)
            else:
                client.log_dict(own, content, f"{to}/{name}")
