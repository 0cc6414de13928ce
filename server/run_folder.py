"""Where a federation's run keeps what it leaves behind."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import tomli_w

from common.errors import CheckpointError, SettingsError
from common.file_lock import hold_file
from common.plan import FederationPlan
from common.settings_file import differences, read_settings


@dataclass(frozen=True)
class RunFolder:
    """The paths below one run's folder.

    Attributes:
        path: The folder.
        tracking: MLflow's database elsewhere, `sqlite:///...`; empty: one in this folder.
    """

    path: Path
    tracking: str = ""

    @property
    def plan_file(self) -> Path:
        """The plan, as it was agreed."""
        return self.path / "plan.toml"

    @property
    def checkpoints(self) -> Path:
        """One folder per saved round."""
        return self.path / "checkpoints"

    @property
    def promoted(self) -> Path:
        """One folder per round that was given out."""
        return self.path / "promoted"

    @property
    def progress_file(self) -> Path:
        """What the server that works on the run does now."""
        return self.path / "progress.json"

    @property
    def label_names_file(self) -> Path:
        """What hospitals' own files call the plan's labels."""
        return self.path / "label_names.json"

    @property
    def server_log(self) -> Path:
        """What the servers that worked on the run had to say."""
        return self.path / "server.log"

    @property
    def tracking_database(self) -> Path:
        """MLflow's database, an SQLite file."""
        if self.tracking:
            return Path(self.tracking.removeprefix("sqlite:///"))
        return self.path / "mlflow.db"

    @property
    def tracking_uri(self) -> str:
        """MLflow's name for that database."""
        return f"sqlite:///{self.tracking_database.resolve()}"

    @property
    def artifacts(self) -> Path:
        """MLflow's artifacts; its default would be the current folder."""
        return self.path / "artifacts"

    @property
    def report_json(self) -> Path:
        """The report for other tools."""
        return self.path / "report.json"

    @property
    def report_html(self) -> Path:
        """The report for people."""
        return self.path / "report.html"

    @contextmanager
    def only_server(self) -> Iterator[None]:
        """Holds the run for this process: two servers would overwrite each other's rounds.

        Raises:
            CheckpointError: another server works on it.
        """
        self.path.mkdir(parents=True, exist_ok=True)
        with ExitStack() as stack:
            try:
                stack.enter_context(hold_file(self.path / ".server.lock", wait=False))
            except BlockingIOError:
                raise CheckpointError(
                    f"expected to be the only server that works on {self.path}, another one does: "
                    "let it work, or stop it first"
                ) from None
            yield

    def read_plan(self) -> FederationPlan:
        """The plan of the run.

        Raises:
            CheckpointError: this is no run's folder.
            SettingsError: the plan does not hold.
        """
        if not self.plan_file.exists():
            raise CheckpointError(
                f"expected a run's folder with plan.toml, found none in {self.path}"
            )
        return read_settings(FederationPlan, self.plan_file)

    def keep_plan(self, plan: FederationPlan) -> None:
        """Writes the plan on the first start; later starts must bring the same.

        Raises:
            SettingsError: the folder holds a run of another plan.
        """
        self.path.mkdir(parents=True, exist_ok=True)
        if self.plan_file.exists():
            kept = self.read_plan()
            if kept != plan:
                raise SettingsError(
                    f"{self.path} holds a run of another plan ({kept.federation}, this one is "
                    f"{plan.federation}), different in {differences(kept, plan)}: give this one "
                    "another name or folder, or remove that folder; labels and tasks are added to "
                    "what is trained by a plan of another name that `extends` this one"
                )
            return
        text = tomli_w.dumps(plan.model_dump(mode="json", exclude_none=True))
        unfinished = self.plan_file.with_suffix(".unfinished")
        unfinished.write_text(text, encoding="utf-8")
        unfinished.replace(self.plan_file)
