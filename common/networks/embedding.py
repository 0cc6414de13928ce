"""The embedding: from the segmenter's last features to a direction per voxel, and the prototypes.

A prototype is the direction in which the voxels of a class lie; the background, which is many
things, has several. They are tensors of the network like its weights, so that they travel, are
averaged and come back with them. After exemplar learning (ELSNet; En and Guo, BMVC 2022);
re-implementation after the published description.
"""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor
from torch.nn import Conv3d, Module

from common.networks.unet import num_last_features
from common.plan import FederationPlan
from common.random_streams import stream_seed

EMBEDDING = "embedding"


class Embedding(Module):
    """A convolution of one voxel, and the prototypes (P, D): the background's first.

    A prototype of length zero has no place yet: nobody has seen its class.
    """

    prototypes: Float[Tensor, "p d"]

    def __init__(self, features: int, length: int, *, background: int, num_classes: int) -> None:
        """`features` come in, directions of `length` numbers go out."""
        super().__init__()
        self.background = background
        self.head = Conv3d(features, length, 1)
        self.register_buffer("prototypes", torch.zeros(background + num_classes - 1, length))

    def forward(self, features: Float[Tensor, "b f i j k"]) -> Float[Tensor, "b d i j k"]:
        """The embeddings, not yet of length one: they may be interpolated first."""
        embedded: Tensor = self.head(features)
        return embedded

    def class_of_prototype(self) -> Tensor:
        """(P,) label indexes, 0 the background."""
        own = torch.arange(len(self.prototypes), device=self.prototypes.device)
        return (own - self.background + 1).clamp_min(0)

    def directions(self) -> Float[Tensor, "p d"]:
        """The prototypes at length one; the mean of several hospitals' is shorter."""
        return F.normalize(self.prototypes, dim=1)


def build_embedding(plan: FederationPlan) -> dict[str, Embedding]:
    """The embedding of a plan's segmenter by its role; none where the plan has no contrast.

    Its first weights are drawn from the seed.
    """
    settings = plan.few_labels.prototypes
    if settings.weight == 0:
        return {}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(stream_seed(plan.seed, "first weights", EMBEDDING))
        embedding = Embedding(
            num_last_features(plan.segmenter),
            settings.embedding_length,
            background=settings.background,
            num_classes=plan.num_classes,
        )
    return {EMBEDDING: embedding}
