"""What a hospital's files call the plan's labels, and what no name may say."""

import json
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from client.store.forget import forget
from client.store.identities import Identity, save_identity
from client.store.ingest import ingest_cases
from client.store.layouts import find_cases
from client.store.local_names import local_names, save_local_names
from client.store.scans import list_scans
from client.store.store import Store, create_store
from common.plan import FederationPlan
from common.updates import Note

Ingest = Callable[..., str]


@pytest.fixture
def plan() -> FederationPlan:
    """Two tasks: the first looks for both labels, the second for one."""
    network = {"channels": [1, 2], "strides": [2], "residual_units": 0}
    task = {"modality": "MR", "plane": "axial", "rounds": 1}
    return FederationPlan.model_validate(
        {
            "name": "names",
            "labels": [{"name": "organ", "index": 1}, {"name": "left lobe", "index": 2}],
            "tasks": [
                {"name": "first", "classes": ["organ", "left lobe"], **task},
                {"name": "second", "classes": ["organ"], **task},
            ],
            "segmenter": network,
            "student": network,
            "training": {"patch_size": [4, 4, 4]},
            "limits": {"hospitals": 1},
        }
    )


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return create_store(tmp_path / "store", "north")


@pytest.fixture
def ingest(store: Store, plan: FederationPlan, tmp_path: Path) -> Ingest:
    """Brings in a scan whose label holds 1 and 2, called as the dictionary says; its id."""

    def do(task: str, seed: int, names: dict[int, str] | None = None) -> str:
        rng = np.random.default_rng(seed)
        label = np.zeros((6, 6, 6), np.uint8)
        label[1:3], label[4] = 1, 2
        folder = tmp_path / f"data-{seed}"
        for kind, array in (("images", rng.normal(size=label.shape)), ("labels", label)):
            (folder / kind).mkdir(parents=True)
            image = nib.Nifti1Image(array.astype(np.float32), np.eye(4))
            nib.save(image, folder / kind / f"case-{seed}.nii.gz")
        if names is not None:
            (folder / "labels.json").write_text(json.dumps(names), encoding="utf-8")
        known = {scan.scan_id for scan in list_scans(store)}
        dataset = find_cases(folder)
        ingest_cases(store, dataset, dataset.cases, task=plan.task_named(task))
        (new,) = {scan.scan_id for scan in list_scans(store)} - known
        return new

    return do


def test_names_of_dictionaries_and_of_things_without_a_name(
    store: Store, plan: FederationPlan, ingest: Ingest
) -> None:
    ingest("first", 1, {1: "Organ", 2: "Left Lobe"})
    ingest("first", 2, {2: "organ", 1: "LEFT_LOBE"})
    ingest("second", 3)
    assert local_names(store, plan, plan.tasks[:1]) == {
        "organ": ("Organ", "organ"),
        "left lobe": ("LEFT_LOBE", "Left Lobe"),
    }
    # The second task takes one class, and nobody there named it.
    assert local_names(store, plan, plan.tasks[1:]) == {"organ": ("value 1",)}
    assert local_names(store, plan, plan.tasks)["organ"] == ("Organ", "organ", "value 1")
    assert local_names(store, plan, ()) == {}


def test_the_newest_import_of_a_scan_counts_until_it_is_withdrawn(
    store: Store, plan: FederationPlan, ingest: Ingest
) -> None:
    scan_id = ingest("second", 1)
    save_local_names(store, scan_id, [(1, 3, "Tumour"), (1, 4, "")])
    assert local_names(store, plan, plan.tasks)["organ"] == ("Tumour", "value 1", "value 4")
    save_local_names(store, scan_id, [(1, 3, "Mass")])
    assert local_names(store, plan, plan.tasks)["organ"] == ("Mass", "value 1")
    (proof,) = forget(store, scan_id)
    assert proof.rows["local_names"] == 1
    assert local_names(store, plan, plan.tasks) == {}


@pytest.mark.parametrize(
    "name", ["Mass of SMITH", "mass P-0042", "case-1 mass", "Mass 1931-02-03", "1.2.840.99"]
)
def test_a_name_that_tells_whose_scan_it_is_stays_here(
    store: Store, plan: FederationPlan, ingest: Ingest, name: str
) -> None:
    scan_id = ingest("second", 1, {1: "organ", 2: "x"})
    details = {"name": "Smith^Al", "birth_date": "1931-02-03", "study": "1.2.840.99", "sex": "F"}
    with store.connect() as connection:
        save_identity(connection, scan_id, Identity("P-0042", details))
    save_local_names(store, scan_id, [(1, 7, name)])
    assert local_names(store, plan, plan.tasks)["organ"] == ("organ", "value 7")
    with store.read() as connection:
        (row,) = connection.execute("SELECT * FROM local_names").fetchall()
    assert row["name"] == "value 7"


@pytest.mark.parametrize(
    ("name", "kept"),
    [
        ("  Mass ", "Mass"),
        ("", "value 7"),
        ("   ", "value 7"),
        ("a\x1b[31mb", r"a\x1b[31mb"),
        ("x" * 70, "x" * 64),
        ("Alveoli", "Alveoli"),
    ],
)
def test_every_name_fits_the_note(
    store: Store, plan: FederationPlan, ingest: Ingest, name: str, kept: str
) -> None:
    scan_id = ingest("second", 1, {2: "x", 1: "y"})
    with store.connect() as connection:
        save_identity(connection, scan_id, Identity("", {"name": "Smith^Al"}))
    save_local_names(store, scan_id, [(1, 7, name)])
    names = local_names(store, plan, plan.tasks)
    assert names == {"organ": (kept,)}
    Note(hospital="north", outcome="greeted", label_names=names)


def test_of_many_names_the_first_few_are_told(
    store: Store, plan: FederationPlan, ingest: Ingest
) -> None:
    scan_id = ingest("second", 1, {2: "x", 1: "y"})
    save_local_names(store, scan_id, [(1, value, f"mass {value}") for value in range(1, 21)])
    names = local_names(store, plan, plan.tasks)
    assert len(names["organ"]) == 8
    Note(hospital="north", outcome="greeted", label_names=names)
