"""MLflow's model registry: a federation's releases as versions, and which of them is in use.

A federation has two registered models, "NAME-1a2b3c4d.segmenter" and "NAME-1a2b3c4d.student", named
as its experiment is, so that federations that share a database do not meet. The alias `candidate`
is at the newest round that ended a stage or was promoted; `champion` at the one that was promoted
last: `coordinator promote` alone moves it.
"""

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING

from common.plan import FederationPlan
from common.released_models import trained_roles
from server.mlflow_database import open_client
from server.promoted_models import PromotedModels
from server.run_folder import RunFolder

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities.model_registry import ModelVersion

CANDIDATE, CHAMPION = "candidate", "champion"
ROUND, HASH = "round", "models_sha256"


def register_round(
    client: "MlflowClient", plan: FederationPlan, number: int, models: Path, source: str
) -> dict[str, "ModelVersion"]:
    """A version of each model for a round, and `candidate` at the newest; asked again, the same.

    A student that the plan does not train is none.

    Args:
        client: of the run's database.
        plan: of the federation whose models they are.
        number: the round.
        models: the file with both, by whose hash a round is known again.
        source: where MLflow says that it lies, the URI of a folder.
    """
    sha256 = hashlib.sha256(models.read_bytes()).hexdigest()
    tags = {"federation": plan.federation, ROUND: str(number), HASH: sha256}
    found = {}
    for role in trained_roles(plan):
        name = registered_name(plan.federation, role)
        versions = _versions(client, name)
        same = [one for one in versions if tags.items() <= one.tags.items()]
        version = same[0] if same else client.create_model_version(name, source, tags=tags)
        newest = max((*versions, version), key=lambda one: int(one.tags[ROUND]))
        client.set_registered_model_alias(name, CANDIDATE, newest.version)
        found[role] = version
    return found


def crown(folder: RunFolder, done: PromotedModels) -> str:
    """Moves `champion` to a promoted round; one that the gate had refused is tagged with why.

    Returns:
        What was done, or why it could not be, for people: the files are promoted all the same.
    """
    database = folder.tracking_database
    if not database.exists():
        return f"no MLflow registry was told: there is no {database}"
    card = done.card
    try:
        client = open_client(folder)
        models, source = done.folder / "models.safetensors", done.folder.resolve().as_uri()
        found = register_round(client, card.plan, card.round, models, source)
        for version in found.values():
            promotion = "despite losses" if card.despite else "passed the gate"
            client.set_model_version_tag(version.name, version.version, "promotion", promotion)
            if card.despite:
                client.set_model_version_tag(version.name, version.version, "despite", card.despite)
            client.set_registered_model_alias(version.name, CHAMPION, version.version)
    except Exception as error:  # noqa: BLE001  (whatever MLflow raises must not cost the promotion)
        return f"MLflow's registry was not told, run the command again once it works: {error}"
    named = " and ".join(f"{one.name} version {one.version}" for one in found.values())
    return f"champion in MLflow: {named}"


def registered_name(federation: str, role: str) -> str:
    """What MLflow calls one of a federation's models."""
    return f"{federation}.{role}"


def _versions(client: "MlflowClient", name: str) -> list["ModelVersion"]:
    """All of a registered model, which is made if it is not there."""
    if not client.search_registered_models(f"name = '{name}'"):
        client.create_registered_model(name)
    return list(client.search_model_versions(f"name = '{name}'"))
