"""Where a federation's run keeps what it leaves behind."""

from dataclasses import dataclass
from pathlib import Path

import tomli_w

from common.errors import CheckpointError, SettingsError
from common.plan import FederationPlan
from common.settings_file import read_settings


@dataclass(frozen=True)
class RunFolder:
    """The paths below one run's folder."""

    path: Path

    @property
    def plan_file(self) -> Path:
        """The plan, as it was agreed."""
        return self.path / "plan.toml"

    @property
    def checkpoints(self) -> Path:
        """One folder per saved round."""
        return self.path / "checkpoints"

    @property
    def tracking_database(self) -> Path:
        """MLflow's database, an SQLite file."""
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
                    f"{plan.federation}): give another --out, or remove that folder"
                )
            return
        text = tomli_w.dumps(plan.model_dump(mode="json", exclude_none=True))
        unfinished = self.plan_file.with_suffix(".unfinished")
        unfinished.write_text(text, encoding="utf-8")
        unfinished.replace(self.plan_file)
