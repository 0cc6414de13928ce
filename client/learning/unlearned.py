"""Classes that no task has taught yet: what a network gives them is the background's.

The head has a channel for every class of the plan from the start, or since the plan was extended. A
class whose stage has not come was background in all that was trained (`common/networks/grow.py`
shares the background's probability with it), so whoever reads probabilities counts it as that.
"""

from collections.abc import Sequence

from jaxtyping import Float
from torch import Tensor

from common.plan import FederationPlan


def unlearned_classes(plan: FederationPlan, round_number: int) -> tuple[int, ...]:
    """Label indexes that no task has taught up to a round's stage, ascending."""
    taught = plan.taught_indexes(plan.stage_of_round(round_number))
    return tuple(label.index for label in plan.labels if label.index not in taught)


def pool_unlearned(
    probabilities: Float[Tensor, "*b n i j k"], unlearned: Sequence[int]
) -> Float[Tensor, "*b n i j k"]:
    """The probabilities with those of the unlearned classes added to the background's."""
    if not unlearned:
        return probabilities
    pooled = probabilities.clone()
    classes = pooled.movedim(-4, 0)
    classes[0] += classes[list(unlearned)].sum(0)
    classes[list(unlearned)] = 0
    return pooled
