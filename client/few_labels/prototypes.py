"""Pixel-prototype contrast: each voxel is drawn to its class's prototype, away from the others.

After exemplar learning (ELSNet; En and Guo, BMVC 2022); re-implementation after the published
description. Half of the voxels are drawn where two classes meet: that is where they are confused.
"""

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from client.learning.batches import Batch
from client.learning.train_models import FeatureTerm
from common.learning_settings import Prototypes
from common.networks.embedding import Embedding
from common.random_streams import generator

UNKNOWN = -1
BAND_VOXELS = 2
KMEANS_TURNS = 5

Features = Float[Tensor, "b f a c d"]
Classes = Int64[Tensor, "b i j k"]


def contrast_term(
    embedding: Embedding | None, settings: Prototypes, rng: np.random.Generator
) -> FeatureTerm | None:
    """The contrast as a term of the segmenter's training; None without an embedding."""
    if embedding is None:
        return None

    def loss(features: Tensor, batch: Batch) -> Tensor:
        return settings.weight * contrast(embedding, features, batch, settings, rng)

    return FeatureTerm(embedding, loss)


def contrast(
    embedding: Embedding,
    features: Features,
    batch: Batch,
    settings: Prototypes,
    rng: np.random.Generator,
) -> Tensor:
    """The loss on voxels drawn from the batch's labels, after the prototypes moved towards them.

    0 where the batch shows no class.
    """
    classes = shown_classes(batch, embedding)
    drawn = draw_voxels(classes, settings.voxels_per_class, rng)
    own = classes[drawn.unbind(1)]
    # A mean that moves by a hundredth does not move at all in half precision.
    with torch.autocast(features.device.type, enabled=False):
        embedded = embedding(features.float())
        vectors = F.normalize(vectors_at(embedded, drawn, classes.shape[1:]), dim=1)
        move_prototypes(embedding, vectors.detach(), own, settings.momentum)
        return contrastive_loss(
            vectors,
            own,
            embedding.directions(),
            embedding.class_of_prototype(),
            settings.temperature,
        )


def vectors_at(
    embedded: Features, voxels: Int64[Tensor, "v 4"], size: tuple[int, ...]
) -> Float[Tensor, "v f"]:
    """The embeddings at voxels of patches of `size`, interpolated: the last features are coarser.

    `voxels` as (patch, i, j, k), patch after patch.
    """
    shares = (2 * voxels[:, 1:] + 1) / torch.tensor(size, device=voxels.device) - 1
    found = [embedded.new_empty(0, embedded.shape[1])]
    for place, patch in enumerate(embedded):
        # Last axis first: the convention of `grid_sample`.
        grid = shares[voxels[:, 0] == place].flip(1).to(patch.dtype)[None, None, None]
        at = F.grid_sample(patch[None], grid, padding_mode="border", align_corners=False)
        found.append(at[0, :, 0, 0].T)
    return torch.cat(found)


def shown_classes(batch: Batch, embedding: Embedding) -> Classes:
    """The label index of voxels whose label is trusted, UNKNOWN elsewhere.

    Background is unknown too where a class that has a prototype was not looked for: it may lie
    there, and its voxels must not be drawn to the background.
    """
    has_place = torch.zeros(batch.known.shape[1], dtype=torch.bool, device=batch.known.device)
    begun = embedding.prototypes.norm(dim=1) > 0
    has_place[embedding.class_of_prototype()[begun]] = True
    everything_known = (batch.known | ~has_place[:, None, None, None]).all(1)
    share, classes = batch.target.max(1)
    trusted = (share * batch.weight > 0.5) & ((classes > 0) | everything_known)
    return torch.where(trusted, classes, UNKNOWN)


def draw_voxels(classes: Classes, per_class: int, rng: np.random.Generator) -> Int64[Tensor, "v 4"]:
    """At most `per_class` voxels of each class as (patch, i, j, k), patch after patch.

    Half of them are from the band along the boundary, as far as it goes; the rest from elsewhere.
    """
    near = at_boundary(classes)
    drawn = torch.zeros(classes.numel(), dtype=torch.bool, device=classes.device)
    for index in _shown(classes):
        own = classes == index
        at_edge = _draw(own & near, per_class // 2, rng)
        drawn[at_edge] = True
        drawn[_draw(own & ~near, per_class - len(at_edge), rng)] = True
    return torch.nonzero(drawn.reshape(classes.shape))


def at_boundary(classes: Classes) -> Bool[Tensor, "b i j k"]:
    """Voxels with one of another class within the band's width; unknown ones are no class."""
    near = torch.zeros_like(classes, dtype=torch.bool)
    for index in _shown(classes):
        own = classes == index
        other = (~own & (classes != UNKNOWN)).float()[:, None]
        reached = F.max_pool3d(other, 2 * BAND_VOXELS + 1, stride=1, padding=BAND_VOXELS)[:, 0]
        near |= own & (reached > 0)
    return near & (classes != UNKNOWN)


def contrastive_loss(
    vectors: Float[Tensor, "v d"],
    classes: Int64[Tensor, " v"],
    prototypes: Float[Tensor, "p d"],
    class_of_prototype: Int64[Tensor, " p"],
    temperature: float,
) -> Tensor:
    """Mean of -log of the share of a voxel's likeness that its own class's prototypes have.

    Vectors and prototypes are of length one, a prototype of length zero has no place yet and is
    left out. The classes of the vectors have places. Without vectors: 0.
    """
    if len(vectors) == 0:
        return vectors.sum()
    has_place = prototypes.norm(dim=1) > 0
    likeness = (vectors @ prototypes.T / temperature).masked_fill(~has_place, -torch.inf)
    is_own = classes[:, None] == class_of_prototype
    log_all = torch.logsumexp(likeness, dim=1)
    log_own = torch.logsumexp(likeness.masked_fill(~is_own, -torch.inf), dim=1)
    return (log_all - log_own).mean()


@torch.no_grad()
def move_prototypes(
    embedding: Embedding,
    vectors: Float[Tensor, "v d"],
    classes: Int64[Tensor, " v"],
    momentum: float,
) -> None:
    """Moves the prototypes, in place, towards the mean vector of what is nearest to each.

    A class that is not there keeps its own. One that is there for the first time begins at its
    mean, the background at the means of as many clusters as it has prototypes.
    """
    places = embedding.directions()
    class_of_prototype = embedding.class_of_prototype()
    for index in _shown(classes):
        own = vectors[classes == index]
        (rows,) = torch.nonzero(class_of_prototype == index, as_tuple=True)
        old = places[rows]
        if not old.any():
            embedding.prototypes[rows] = cluster(own, len(rows))
        else:
            means, is_met = _means(own, old)
            moved = F.normalize(momentum * old + (1 - momentum) * means, dim=1)
            embedding.prototypes[rows[is_met]] = moved[is_met]


def cluster(vectors: Float[Tensor, "v d"], number: int) -> Float[Tensor, "n d"]:
    """The mean directions of clusters of vectors of length one (k-means by their angles).

    It begins at the same directions everywhere, so that hospitals which begin in the same round
    order their clusters alike. A cluster that nothing is nearest to begins anew at a vector that
    is far from all.
    """
    rng = generator(0, "first clusters", number, vectors.shape[1])
    start = torch.from_numpy(rng.standard_normal((number, vectors.shape[1])))
    centres = F.normalize(start.to(vectors), dim=1)
    for _ in range(KMEANS_TURNS):
        means, is_met = _means(vectors, centres)
        lonely = vectors[(vectors @ centres.T).amax(1).argsort()]
        (empty,) = torch.nonzero(~is_met, as_tuple=True)
        empty = empty[: len(lonely)]
        means[empty] = lonely[: len(empty)]
        centres = F.normalize(means, dim=1)
    return centres


def nearest_class(embedding: Embedding, features: Features, size: tuple[int, ...]) -> Classes:
    """The class of the prototype that is nearest to each voxel of patches of `size`.

    Of those prototypes that have a place; UNKNOWN everywhere as long as none has.
    """
    places = embedding.directions()
    (begun,) = torch.nonzero(places.norm(dim=1) > 0, as_tuple=True)
    if len(begun) == 0:
        shape = (len(features), *size)
        return torch.full(shape, UNKNOWN, dtype=torch.int64, device=features.device)
    # Likeness may be interpolated instead of the embedding, and has fewer channels.
    likeness = torch.einsum("bfijk,pf->bpijk", embedding(features.float()), places[begun])
    fine = F.interpolate(likeness, size=size, mode="trilinear", align_corners=False)
    return embedding.class_of_prototype()[begun][fine.argmax(1)]


def _means(
    vectors: Float[Tensor, "v d"], centres: Float[Tensor, "n d"]
) -> tuple[Float[Tensor, "n d"], Bool[Tensor, " n"]]:
    """The mean of the vectors nearest to each centre, and whether there are any."""
    nearest = F.one_hot((vectors @ centres.T).argmax(1), len(centres)).to(vectors.dtype)
    counts = nearest.sum(0)
    return nearest.T @ vectors / counts.clamp_min(1)[:, None], counts > 0


def _shown(classes: Int64[Tensor, "..."]) -> list[int]:
    counts: list[int] = torch.bincount(classes[classes != UNKNOWN].flatten()).tolist()
    return [index for index, count in enumerate(counts) if count > 0]


def _draw(
    is_candidate: Bool[Tensor, "b i j k"], number: int, rng: np.random.Generator
) -> Int64[Tensor, " v"]:
    """At most `number` of the candidates, as places in the flattened patches."""
    (places,) = torch.nonzero(is_candidate.flatten(), as_tuple=True)
    if len(places) <= number:
        return places
    chosen = rng.choice(len(places), number, replace=False)
    return places[torch.from_numpy(chosen).to(places.device)]
