"""What the models that a federation shares may tell about one hospital."""

from pydantic import Field, model_validator

from common.settings_file import Settings


class Privacy(Settings):
    """Client-level differential privacy: how far one hospital may move the shared model.

    The unit that is protected is a whole hospital, against those who see the averaged model (the
    other hospitals, and whoever gets it later). The coordinator sees each hospital's own weights.

    `clipping_norm`: the longest update (L2, over all tensors of a round) that counts whole; longer
    ones are scaled down to it (none: off). It also bounds what a poisoning hospital can do.
    `noise_multiplier`: the standard deviation of the Gaussian noise on the sum of the updates, in
    clipping norms (0: no noise, and no privacy is promised). `delta`: the chance that epsilon does
    not hold; keep it well below one over the number of hospitals.
    """

    clipping_norm: float | None = Field(default=None, gt=0, le=1e6)
    noise_multiplier: float = Field(default=0.0, ge=0, le=1e4)
    delta: float = Field(default=1e-5, gt=0, lt=1)

    @property
    def adds_noise(self) -> bool:
        """Whether a promise is made, which only noise can."""
        return self.noise_multiplier > 0

    @model_validator(mode="after")
    def _check(self) -> "Privacy":
        if self.adds_noise and self.clipping_norm is None:
            raise ValueError(
                f"noise_multiplier = {self.noise_multiplier:g} is counted in clipping norms: "
                "set clipping_norm"
            )
        return self
