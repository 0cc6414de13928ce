"""A part of a scan: the same voxels, in the same place of the patient."""

import numpy as np
import pytest

from client.crop import Crop, around
from common.scans import Geometry, LabelMap, Scan, SliceAnnotation, SliceRef

SHAPE = (6, 7, 8)
CROP = Crop((1, 2, 3), (4, 7, 5))


def labelled(*voxels: tuple[int, int, int]) -> np.ndarray:
    labels = np.zeros(SHAPE, np.uint8)
    for voxel in voxels:
        labels[voxel] = 2
    return labels


def test_the_box_of_what_is_labelled_has_a_margin_inside_the_scan() -> None:
    labels = labelled((2, 3, 4), (3, 6, 4))
    assert around(labels, (0, 0, 0)) == Crop((2, 3, 4), (4, 7, 5))
    assert around(labels, (1, 2, 9)) == Crop((1, 1, 0), (5, 7, 8))
    assert around(labelled(), (1, 1, 1)) == Crop((0, 0, 0), SHAPE)


def test_a_scans_part_lies_where_it_lay() -> None:
    image = np.random.default_rng(0).normal(size=(1, *SHAPE)).astype(np.float32)
    affine = ((-2.0, 0.0, 0.1, 10.0), (0.0, 3.0, 0.0, -5.0), (0.2, 0.0, 4.0, 1.0), (0, 0, 0, 1.0))
    scan = Scan("scan", image, Geometry(SHAPE, affine), "MR")
    part = CROP.of_scan(scan)
    assert part.geometry.shape == part.image.shape[1:] == CROP.shape == (3, 5, 2)
    assert part.geometry.spacing_mm == pytest.approx(scan.geometry.spacing_mm)
    for voxel in ((0, 0, 0), (2, 4, 1)):
        there = tuple(n + start for n, start in zip(voxel, CROP.first, strict=True))
        assert part.image[0][voxel] == image[0][there]
        np.testing.assert_allclose(
            np.asarray(part.geometry.affine) @ (*voxel, 1), np.asarray(affine) @ (*there, 1)
        )


def test_labels_and_painted_slices_are_cut_alike() -> None:
    rng = np.random.default_rng(0)
    soft = rng.random((2, *SHAPE)).astype(np.float32)
    labels = LabelMap((1,), soft, soft[0], soft[0] > 0.5, (1,), "propagated")
    part = CROP.of_labels(labels)
    np.testing.assert_array_equal(part.soft, soft[:, 1:4, 2:7, 3:5])
    np.testing.assert_array_equal(part.expert, labels.expert[1:4, 2:7, 3:5])
    volume = rng.integers(0, 2, size=SHAPE).astype(np.uint8)
    refs = [
        SliceRef("scan", axis, index) for axis, index in ((0, 1), (0, 4), (1, 6), (2, 2), (2, 3))
    ]
    painted = [SliceAnnotation(ref, volume[ref.selection], (1,), "anna", 1.0) for ref in refs]
    inside = CROP.of_annotations(painted)
    assert [(one.ref.axis, one.ref.index) for one in inside] == [(0, 0), (1, 4), (2, 0)]
    for one in inside:
        np.testing.assert_array_equal(one.mask, volume[CROP.box][one.ref.selection])
