"""Opens the database in which MLflow keeps a run: its experiments and its registered models."""

import logging
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

from server.run_folder import RunFolder

if TYPE_CHECKING:
    from mlflow import MlflowClient


def open_client(folder: RunFolder) -> "MlflowClient":
    """A client of the run's database, which is made if it is not there; loads MLflow: seconds.

    Raises:
        sqlite3.Error: the file is no database; MLflow would try again and again for 100 s.
    """
    from mlflow import MlflowClient  # noqa: PLC0415  (2.5 s; only where it is used)

    _require_sqlite(folder.tracking_database)
    # It tells of every table it makes.
    logging.getLogger("mlflow").setLevel(logging.WARNING)
    # Named twice: else the models would go where an environment variable says.
    return MlflowClient(tracking_uri=folder.tracking_uri, registry_uri=folder.tracking_uri)


def _require_sqlite(path: Path) -> None:
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA schema_version").fetchone()
