"""One grey stack out of z-scored channels, for methods that were made for eight-bit pictures."""

from jaxtyping import Float
from torch import Tensor


def grey_stack(stack: Float[Tensor, "c d h w"], brightest: float) -> Float[Tensor, "d h w"]:
    """The mean of the channels, stretched to [0, brightest]; a stack without contrast is all 0."""
    mean = stack.mean(0)
    darkest = mean.amin()
    contrast = mean.amax() - darkest
    # Contrast of a few rounding errors would be stretched to noise.
    if float(contrast) < 1e-6:
        return mean * 0
    return (mean - darkest) * (brightest / contrast)
