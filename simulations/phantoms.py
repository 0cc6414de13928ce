"""Built-in scans: a two-part organ in a textured body, seen by a different scanner in each stage.

They are written as an ordinary MSD folder, so everything after them is the path of real scans.
"""

import csv
import json
from pathlib import Path

import nibabel as nib
import numpy as np
from jaxtyping import Float, UInt8
from scipy import ndimage

from common.random_streams import generator
from simulations.scenario import Scenario

HEAD, BODY = 1, 2


def draw_phantom(
    shape: tuple[int, int, int], stage: int, rng: np.random.Generator
) -> tuple[Float[np.ndarray, "i j k"], UInt8[np.ndarray, "i j k"]]:
    """One scan and its labels (0, 1 head, 2 body), both (I, J, K).

    The organ is a bent ellipsoid cut in two; the stage sets brightness, contrast and noise, as
    another scanner would.
    """
    i, j, k = (np.linspace(-1, 1, n)[tuple(_along(axis))] for axis, n in enumerate(shape))
    centre = rng.uniform(-0.12, 0.12, 3)
    radii = np.array([0.75, 0.7, 0.5]) * rng.uniform(0.85, 1.1, 3)
    bend = rng.uniform(0.1, 0.3)
    wobble = 0.15 * _smooth_noise(shape, 4, rng)
    distance = (
        ((i - centre[0]) / radii[0]) ** 2
        + ((j - centre[1]) / radii[1]) ** 2
        + ((k - centre[2] - bend * (j**2 - 0.3)) / radii[2]) ** 2
        + wobble
    )
    cut = j - centre[1] + 0.3 * (k - centre[2]) + 0.1 * i > rng.uniform(-0.1, 0.1)
    labels = np.where(distance < 1, np.where(cut, HEAD, BODY), 0).astype(np.uint8)
    contrast = (1.0, 0.75, 1.3)[stage % 3]
    tissue = np.choose(labels, [0.0, 1.6 * contrast, 0.9 * contrast])
    body = 0.25 * _smooth_noise(shape, 3, rng) + 0.3 * i * (stage % 3 - 1)
    noise = (0.12, 0.2, 0.16)[stage % 3] * rng.standard_normal(shape)
    image = 100 * (1 + stage) * (2 + ndimage.gaussian_filter(tissue, 0.7) + body + noise)
    return image, labels


def write_phantoms(folder: Path, scenario: Scenario) -> None:
    """Writes the scenario's phantoms as an MSD folder with a cases.csv; a finished one is kept."""
    settings = scenario.phantoms
    assert settings is not None  # the caller asks for phantoms
    if (folder / "dataset.json").exists():
        return
    rows = []
    for stage, deal in enumerate(scenario.deals):
        num_train = settings.scans_per_site * len(deal.sites or scenario.sites)
        for number in range(num_train + settings.test_scans):
            case = f"phantom_{deal.task}_{number:03d}"
            rng = generator(scenario.seed, "phantom", deal.task, number)
            _write_case(folder, case, *draw_phantom(settings.shape, stage, rng))
            split = "train" if number < num_train else "test"
            rows.append({"case": case, "task": deal.task, "split": split})
    with (folder / "cases.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, fieldnames=["case", "task", "split"])
        writer.writeheader()
        writer.writerows(rows)
    labels = {"0": "background", **{str(x.index): x.name for x in scenario.plan.labels}}
    training = [
        {"image": f"./imagesTr/{r['case']}.nii.gz", "label": f"./labelsTr/{r['case']}.nii.gz"}
        for r in rows
    ]
    description = {"name": "Phantoms", "modality": {"0": "MRI"}, "labels": labels}
    # Written last: its presence says that the folder is complete.
    text = json.dumps({**description, "numTraining": len(rows), "training": training})
    (folder / "dataset.json").write_text(text, encoding="utf-8")


def _write_case(folder: Path, case: str, image: np.ndarray, labels: np.ndarray) -> None:
    for part, array in (("imagesTr", image.astype(np.float32)), ("labelsTr", labels)):
        (folder / part).mkdir(parents=True, exist_ok=True)
        nib.save(nib.Nifti1Image(array, np.eye(4)), folder / part / f"{case}.nii.gz")


def _along(axis: int) -> list[slice | None]:
    return [slice(None) if other == axis else None for other in range(3)]


def _smooth_noise(
    shape: tuple[int, int, int], sigma: float, rng: np.random.Generator
) -> Float[np.ndarray, "i j k"]:
    noise = ndimage.gaussian_filter(rng.standard_normal(shape), sigma)
    result: Float[np.ndarray, "i j k"] = noise / max(float(noise.std()), 1e-9)
    return result
