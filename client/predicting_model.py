"""Which model a hospital predicts with, and whether its labels mean what they mean here."""

from pathlib import Path

from client.approvals import read_approvals
from client.store.received_models import load_newest
from client.store.store import open_store
from common.errors import LabelDictionaryError, SettingsError
from common.plan import FederationPlan, Label
from common.released_models import Release, read_release


def find_release(store: Path | None, release: Path | None) -> Release:
    """The release in a folder, or else the models that came last to a hospital.

    Raises:
        SettingsError: neither is given, or the hospital has to choose.
        StoreError: the hospital has received none.
        ReleaseError: it is none, or was changed.
    """
    if release is not None:
        return read_release(release)
    if store is None:
        raise SettingsError("expected the hospital's --store, or a release's folder as --release")
    return load_newest(open_store(store))


def check_labels(node: Path, plan: FederationPlan) -> None:
    """Refuses a model whose labels are others than those of the federation's approved plan.

    A federation that goes on appends labels, so a model may know fewer. Where no plan of that name
    is approved there is nothing to compare with.

    Raises:
        LabelDictionaryError: with both dictionaries.
        SettingsError: the approvals cannot be read.
    """
    approved = [one.plan for one in read_approvals(node).plans if one.plan.name == plan.name]
    if not approved:
        return
    agreed = approved[-1].labels
    meant, known = _meaning(plan.labels), _meaning(agreed)
    if meant != known[: len(meant)]:
        raise LabelDictionaryError(
            f"the model's labels are of another version than the plan {approved[-1].federation} "
            f"that is approved here:\n  model:    {_in_words(plan.labels)}\n"
            f"  approved: {_in_words(agreed)}\n"
            "approve the model's plan, or ask the coordinator for a release of the approved one"
        )


def _meaning(labels: tuple[Label, ...]) -> list[tuple[int, str, str | None]]:
    return [(label.index, label.name, label.snomed) for label in labels]


def _in_words(labels: tuple[Label, ...]) -> str:
    return ", ".join(
        f"{label.index} {label.name}" + (f" (SNOMED {label.snomed})" if label.snomed else "")
        for label in labels
    )
