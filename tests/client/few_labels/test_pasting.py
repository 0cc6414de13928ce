"""Laws of edges, blending, texture and filled holes."""

import numpy as np
import pytest
import torch

from client.few_labels.pasting import blend, filled, largest_overlap, soft_edge, texture_of
from client.learning.examples import Patch

SIZE = (12, 12, 12)


def patch_of(image: torch.Tensor, *, label: int = 0, weight: float = 1.0) -> Patch:
    """Everywhere one label, of two and the background."""
    target = torch.zeros(3, *SIZE)
    target[label] = 1
    known = torch.ones(3, *SIZE, dtype=torch.bool)
    return Patch(image, target, torch.full(SIZE, weight), torch.zeros(SIZE) > 0, known)


def cube() -> torch.Tensor:
    outline = torch.zeros(SIZE)
    outline[4:8, 4:8, 4:8] = 1
    return outline


def test_without_a_feather_an_edge_is_the_outline() -> None:
    assert torch.equal(soft_edge(0.7 * cube(), 0), cube())
    assert soft_edge(0.4 * cube(), 0).sum() == 0


def test_an_edge_is_whole_on_the_structure_and_falls_with_distance() -> None:
    alpha = soft_edge(cube(), 1.0)
    assert alpha[4:8, 4:8, 4:8].min() > 0.9
    profile = alpha[6, 6, 7:]
    assert (profile.diff() < 0).all()
    # Grown by two voxels, the outline ends between voxels 9 and 10: a half lies there.
    assert profile[2] > 0.5 > profile[3]
    assert (profile[2] + profile[3]).item() == pytest.approx(1, abs=0.03)


def test_a_blend_is_one_or_the_other_at_its_ends_and_doubtful_half_way() -> None:
    background = patch_of(torch.zeros(1, *SIZE), weight=0.5)
    pasted = patch_of(torch.ones(1, *SIZE), label=2)
    alpha = torch.linspace(0, 1, 5)[:, None, None].expand(5, 12, 12)
    alpha = torch.cat([alpha, torch.zeros(7, 12, 12)])
    result = blend(background, pasted, alpha)
    torch.testing.assert_close(result.image[0, :5, 0, 0], torch.linspace(0, 1, 5))
    assert result.target.argmax(0)[:5, 0, 0].tolist() == [0, 0, 2, 2, 2]
    # 0.5 and 1 where one image is seen alone, less by |2 alpha - 1| in between.
    assert result.weight[:5, 0, 0].tolist() == [0.5, 0.25, 0.0, 0.5, 1.0]


def test_texture_keeps_spectrum_and_mean_and_loses_the_shape() -> None:
    rng = np.random.default_rng(0)
    shape = 4 * cube() + 1
    image = (shape + torch.from_numpy(rng.normal(size=SIZE)).float())[None]
    texture = texture_of(patch_of(image, label=1), seed=3)
    spectra = [torch.fft.rfftn(one.double(), dim=(1, 2, 3)).abs() for one in (image, texture.image)]
    torch.testing.assert_close(spectra[1].mean(), spectra[0].mean(), rtol=0.1, atol=0)
    assert texture.image.mean() == pytest.approx(float(image.mean()), abs=1e-4)
    both = torch.stack([texture.image.flatten(), shape.flatten()])
    assert abs(float(torch.corrcoef(both)[0, 1])) < 0.3
    assert (texture.target.argmax(0) == 0).all()
    assert torch.equal(texture.image, texture_of(patch_of(image, label=1), seed=3).image)
    assert not torch.equal(texture.image, texture_of(patch_of(image, label=1), seed=4).image)


def test_a_hole_is_filled_with_what_is_around_it() -> None:
    image = torch.full((1, *SIZE), 2.0)
    image[0, cube() > 0] = 9
    result = filled(patch_of(image, label=1, weight=0.25), cube())
    torch.testing.assert_close(result.image, torch.full((1, *SIZE), 2.0))
    assert (result.target.argmax(0) == 0).all()
    assert (result.weight == 0.25).all()


def test_an_overlap_is_a_share_of_the_smaller_mask() -> None:
    large, small = torch.zeros(10, 1, 1) > 0, torch.zeros(10, 1, 1) > 0
    large[:8] = True
    small[7:9] = True
    assert largest_overlap([large, small]) == 0.5
    assert largest_overlap([large, small, ~large]) == 0.5
    assert largest_overlap([large]) == largest_overlap([]) == 0
