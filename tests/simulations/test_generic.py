from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from client.store.layouts import find_cases
from common.errors import SettingsError
from simulations.generic import choose_scenario, generic_scenario
from simulations.sites import deal_cases


def write_plain(folder: Path, count: int, shape: tuple[int, int, int], values: int) -> None:
    rng = np.random.default_rng(0)
    for part in ("images", "labels"):
        (folder / part).mkdir(parents=True)
    for number in range(count):
        affine = np.diag([1.0, 1.0, 4.0, 1.0])
        image = rng.normal(100, 10, shape).astype(np.float32)
        label = np.zeros(shape, np.uint8)
        label[: values + 1, 0, 0] = range(values + 1)
        nib.save(nib.Nifti1Image(image, affine), folder / "images" / f"case{number:02d}.nii.gz")
        nib.save(nib.Nifti1Image(label, affine), folder / "labels" / f"case{number:02d}.nii.gz")


def test_sizes_follow_the_scans(tmp_path: Path) -> None:
    write_plain(tmp_path, 9, (60, 50, 9), values=2)
    scenario = generic_scenario(find_cases(tmp_path))
    plan = scenario.plan
    # 60 and 50 are halved three times, 9 once: multiples of 8, 8 and 2.
    assert plan.training.patch_size == (56, 48, 8)
    assert plan.segmenter.total_stride == (8, 8, 2)
    # Slices are painted across the coarsest axis.
    assert {task.plane for task in plan.tasks} == {"axial"}
    assert [label.name for label in plan.labels] == ["label-1", "label-2"]


def test_large_scans_get_a_patch_that_is_cheap(tmp_path: Path) -> None:
    write_plain(tmp_path, 8, (130, 120, 110), values=1)
    plan = generic_scenario(find_cases(tmp_path)).plan
    assert np.prod(plan.training.patch_size) <= 65_536


def test_every_case_is_dealt_once(tmp_path: Path) -> None:
    write_plain(tmp_path, 15, (16, 16, 16), values=1)
    dataset = find_cases(tmp_path)
    scenario = generic_scenario(dataset)
    dealt = deal_cases(scenario, dataset)
    training = [n for sites in dealt.training.values() for names in sites.values() for n in names]
    test = {name for names in dealt.test.values() for name in names}
    assert len(test) == 3
    assert sorted([*training, *test]) == [case.name for case in dataset.cases]


def test_too_few_cases_are_refused(tmp_path: Path) -> None:
    write_plain(tmp_path, 3, (16, 16, 16), values=1)
    with pytest.raises(SettingsError, match=r"has 3 cases.*at least 8"):
        generic_scenario(find_cases(tmp_path))


def test_generic_needs_a_folder() -> None:
    with pytest.raises(SettingsError, match="give --data FOLDER"):
        choose_scenario("generic", None)
