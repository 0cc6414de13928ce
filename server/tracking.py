"""MLflow at the coordinator: one experiment per federation, one run per start, nested by stage.

A tracker that fails costs no round: the first failure is logged and tracking stops there, while the
checkpoints, which hold the same numbers, go on.
"""

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from common.plan import FederationPlan
from server.mlflow_database import open_client
from server.model_registry import register_round
from server.promotion import judge_rounds, promoted_round
from server.round_state import RoundRecord, RoundState
from server.run_folder import RunFolder

log = logging.getLogger(__name__)
LARGEST_BATCH = 1000  # MLflow refuses more metrics at once; 300 hospitals have more in a round


def round_metrics(record: RoundRecord) -> dict[str, float]:
    """The numbers of one round under few, stable names: per task, and per hospital."""
    metrics: dict[str, float] = {
        "hospitals/averaged": len(record.averaged),
        "hospitals/dropped": len(record.dropped),
        **{f"seconds/{what}": seconds for what, seconds in record.seconds.items()},
        **{f"update_norm/{name}": norm for name, norm in record.update_norms.items()},
    }
    if record.epsilon is not None:
        metrics["epsilon"] = record.epsilon
    per_task: dict[str, list[float]] = {}
    for note in record.notes:
        if note.loss is not None:
            name = "self_learning_loss" if note.outcome == "self_learned" else "loss"
            metrics[f"{name}/{note.hospital}"] = note.loss
        for score in note.scores:
            mean = score.mean_dice
            if mean is not None:
                metrics[f"dice/{score.task}/{note.hospital}"] = mean
                per_task.setdefault(score.task, []).append(mean)
    for task, means in per_task.items():
        metrics[f"dice/{task}/mean"] = sum(means) / len(means)
    return metrics


class MlflowTracker:
    """Logs to the run folder's own MLflow database."""

    def __init__(self, plan: FederationPlan, folder: RunFolder) -> None:
        """Opens the experiment and starts a run; loads MLflow, which takes seconds."""
        self._plan = plan
        self._folder = folder
        self._client = open_client(folder)
        self._experiment = self._open_experiment()
        self.run_id = self._start_run(time.strftime("start %Y-%m-%d %H:%M:%S"), {})
        self._stage_runs: dict[str, str] = {}
        for name, value in _parameters(plan).items():
            self._client.log_param(self.run_id, name, value)
        self._client.log_artifact(self.run_id, str(folder.plan_file))

    def log_state(self, state: RoundState) -> None:
        """The round's numbers; all models at the end of each stage, in the registry, too."""
        record = state.closing or state.history[-1]
        # A round's scores are those of the models that came in, so the closing ones stand after it.
        step = record.round + (state.closing is not None)
        for run_id in (self.run_id, self._stage_run(record)):
            self._log_metrics(run_id, record, step)
        if self._plan.release.most_loss is not None:
            promoted = promoted_round(judge_rounds(self._plan, state))
            self._client.set_tag(self.run_id, "promoted_round", str(promoted or "none"))
        if self._plan.ends_stage(state.round) and state.closing is None:
            self._log_models(self._stage_run(record), state.round)

    def close(self, status: str) -> None:
        """Ends all runs of this start."""
        for run_id in (*self._stage_runs.values(), self.run_id):
            self._client.set_terminated(run_id, status)

    def _log_models(self, run_id: str, number: int) -> None:
        path = self._folder.checkpoints / f"round-{number:05d}" / "models.safetensors"
        self._client.log_artifact(run_id, str(path), "models")
        if number > self._plan.correspondence.rounds:  # self-learning trains neither model
            source = f"{self._client.get_run(run_id).info.artifact_uri}/models"
            register_round(self._client, self._plan, number, path, source)

    def _open_experiment(self) -> str:
        found = self._client.get_experiment_by_name(self._plan.federation)
        if found is not None:
            return str(found.experiment_id)
        location = self._folder.artifacts.resolve().as_uri()
        return str(self._client.create_experiment(self._plan.federation, location))

    def _start_run(self, name: str, tags: dict[str, str]) -> str:
        run = self._client.create_run(self._experiment, run_name=name, tags=tags)
        return str(run.info.run_id)

    def _stage_run(self, record: RoundRecord) -> str:
        name = f"stage {record.stage + 1}: {self._plan.tasks[record.stage].name}"
        if self._plan.is_self_learning(record.round):
            name = "stage 0: self-learning"
        if name not in self._stage_runs:
            parent = {"mlflow.parentRunId": self.run_id}
            self._stage_runs[name] = self._start_run(name, parent)
        return self._stage_runs[name]

    def _log_metrics(self, run_id: str, record: RoundRecord, step: int) -> None:
        from mlflow.entities import Metric  # noqa: PLC0415  (2.5 s; only where it is used)

        now_ms = int(time.time() * 1000)
        metrics = [
            Metric(name, value, now_ms, step) for name, value in round_metrics(record).items()
        ]
        for start in range(0, len(metrics), LARGEST_BATCH):
            self._client.log_batch(run_id, metrics=metrics[start : start + LARGEST_BATCH])


class CarefulTracker:
    """Passes everything on until the first failure, which it logs; then nothing."""

    def __init__(self, tracker: MlflowTracker | None) -> None:
        """None tracks nothing from the start."""
        self._tracker = tracker

    def log_state(self, state: RoundState) -> None:
        """A round was saved, or the closing scores were."""
        self._try(lambda tracker: tracker.log_state(state))

    def close(self, status: str) -> None:
        """Ends this start's runs."""
        self._try(lambda tracker: tracker.close(status))

    def _try(self, action: Callable[[MlflowTracker], None]) -> None:
        if self._tracker is None:
            return
        try:
            action(self._tracker)
        except Exception as error:  # noqa: BLE001  (whatever MLflow raises must not cost a round)
            log.warning("tracking stops here, the federation goes on: %s", error)
            self._tracker = None


@contextmanager
def open_tracker(plan: FederationPlan, folder: RunFolder) -> Iterator[CarefulTracker]:
    """A tracker for one start of a federation; ended as finished or failed."""
    try:
        tracker = CarefulTracker(MlflowTracker(plan, folder))
    except Exception as error:  # noqa: BLE001  (as above)
        log.warning("MLflow cannot be opened, the federation goes on without it: %s", error)
        tracker = CarefulTracker(None)
    try:
        yield tracker
    except BaseException:
        tracker.close("FAILED")
        raise
    tracker.close("FINISHED")


def attach_report(plan: FederationPlan, folder: RunFolder) -> None:
    """Adds the finished report's files to the newest start; a failure is only logged."""
    try:
        client = open_client(folder)
        experiment = client.get_experiment_by_name(plan.federation)
        runs = client.search_runs(
            [experiment.experiment_id], order_by=["attributes.start_time DESC"]
        )
        starts = [run for run in runs if "mlflow.parentRunId" not in run.data.tags]
        for path in (folder.report_json, folder.report_html):
            client.log_artifact(starts[0].info.run_id, str(path))
    except Exception as error:  # noqa: BLE001  (whatever MLflow raises must not cost the report)
        log.warning("the report could not be added to MLflow: %s", error)


def _parameters(plan: FederationPlan) -> dict[str, str]:
    """The plan's leaves as MLflow parameters."""
    training = plan.training.model_dump(exclude={"augmentation"})
    sections = {
        "training": training,
        "strategy": plan.strategy.model_dump(),
        "replay": plan.replay.model_dump(),
        "propagation": plan.propagation.model_dump(),
        "correspondence": plan.correspondence.model_dump(),
        "annotation": plan.annotation.model_dump(),
        "release": plan.release.model_dump(),
    }
    leaves = {
        f"{section}.{name}": str(value)
        for section, values in sections.items()
        for name, value in values.items()
    }
    return {"seed": str(plan.seed), "tasks": ", ".join(t.name for t in plan.tasks), **leaves}
