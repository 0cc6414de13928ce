"""How hospitals train: the parts of a plan that say what a round does with its labels."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from common.settings_file import Settings

Millimetres = Annotated[float, Field(gt=0, le=100)]
PatchSide = Annotated[int, Field(ge=1, le=1024)]
Degrees = Annotated[float, Field(ge=0, le=180)]
Share = Annotated[float, Field(ge=0, le=1)]


class Augmentation(Settings):
    """Ranges of the random changes made to training patches; zero switches one off.

    `elastic_voxels` is how far a smooth bend moves voxels, typically, along each axis.
    """

    rotation_degrees: tuple[Degrees, Degrees, Degrees] = (15.0, 15.0, 15.0)
    scale: float = Field(default=0.15, ge=0, lt=1)
    log_gamma: float = Field(default=0.3, ge=0, le=2)
    gain: float = Field(default=0.2, ge=0, lt=1)
    noise: float = Field(default=0.1, ge=0, le=2)
    elastic_voxels: float = Field(default=0.0, ge=0, le=50)
    blur_voxels: float = Field(default=0.0, ge=0, le=10)


class Training(Settings):
    """How a hospital trains in one round. `spacing_mm` none: on the scan's own grid.

    No hospital trains on a `held_back_share` of its scans. A class has a Dice that guards may go by
    if the tasks in which it was scored have `judged_slices` of those at all hospitals together.

    Labels are made softer by up to `smoothing_max` where they are in doubt, and near boundaries as
    by a Gaussian with a deviation of `boundary_smoothing_voxels` (0: not at all).
    """

    spacing_mm: tuple[Millimetres, Millimetres, Millimetres] | None = None
    patch_size: tuple[PatchSide, PatchSide, PatchSide]
    batch_size: int = Field(default=4, ge=1, le=256)
    steps_per_round: int = Field(default=12, ge=1, le=100_000)
    student_steps_per_round: int = Field(default=6, ge=0, le=100_000)
    learning_rate: float = Field(default=2e-3, gt=0, le=1)
    final_learning_rate_share: float = Field(default=0.1, gt=0, le=1)
    weight_decay: float = Field(default=1e-3, ge=0, le=1)
    clip_norm: float = Field(default=1.0, gt=0)
    smoothing_max: float = Field(default=0.1, ge=0, lt=1)
    boundary_smoothing_voxels: float = Field(default=0.0, ge=0, le=5)
    held_back_share: float = Field(default=0.1, ge=0, le=0.5)
    judged_slices: int = Field(default=8, ge=1)
    min_annotated_scans: int = Field(default=1, ge=1)
    augmentation: Augmentation = Augmentation()


class Replay(Settings):
    """The hospital's memory of earlier tasks: how much of it, what stays, its share of each batch.

    At most `budget_scans` scans and, if it is set, `budget_mb` megabytes (1e6 bytes) of the images
    and labels that they take of the hospital's disk. `policy` says which scans stay: "reservoir"
    gives each the same chance, "balanced" each task and rarest structure; "hard" gives tasks the
    same share, and keeps of each those that the incoming segmenter does worst on.
    """

    budget_scans: int = Field(default=24, ge=0)
    budget_mb: float | None = Field(default=None, gt=0)
    policy: Literal["reservoir", "balanced", "hard"] = "balanced"
    share: Share = 0.5


class Retention(Settings):
    """What keeps old tasks alive while a new one is learnt, beside replay.

    `old_classes`: what a class of an earlier task counts as on a scan where nobody looked for it.
    "background": plain fine-tuning, which forgets. "merged": background or that class, no matter
    which. "distilled": whatever the old model sees there.

    The old model is the one that came in when the stage began at the hospital.
    `replay_distillation` weighs how closely the outputs on replayed scans are held to its own,
    `current_distillation` those on the scans of the current task (learning without forgetting),
    `elastic_weight` how closely each weight is held to its own, by its Fisher information (elastic
    weight consolidation).
    """

    old_classes: Literal["background", "merged", "distilled"] = "merged"
    replay_distillation: float = Field(default=0.0, ge=0, le=100)
    current_distillation: float = Field(default=0.0, ge=0, le=100)
    elastic_weight: float = Field(default=0.0, ge=0)

    @property
    def holds_outputs(self) -> bool:
        """Whether the outputs are held to the old model's anywhere."""
        return self.replay_distillation > 0 or self.current_distillation > 0


class Synthesis(Settings):
    """Exemplar-guided synthesis: structures of the best-labelled scans, pasted into others.

    `share` of the training patches are made so; 0 switches it off. `exemplars` is how many scans
    the structures come from. Each is turned, scaled, bent and recoloured within these ranges, in
    one piece so that it stays a volume, and blended in over `feather_voxels`. `negative_share` of
    the pastes show texture without structure, so that an edge of a paste tells nothing.
    `own_background` of them go into their own scan, filled where its structures were; the others
    into the patches of other scans.
    """

    share: Share = 0.0
    exemplars: int = Field(default=8, ge=1)
    rotation_degrees: Degrees = 20.0
    scale: float = Field(default=0.25, ge=0, lt=1)
    elastic_voxels: float = Field(default=1.5, ge=0, le=50)
    gain: float = Field(default=0.15, ge=0, lt=1)
    blur_voxels: float = Field(default=0.5, ge=0, le=10)
    feather_voxels: float = Field(default=1.0, ge=0, le=10)
    negative_share: Share = 0.25
    own_background: Share = 0.0


class Prototypes(Settings):
    """Pixel-prototype contrast: voxels of a class are drawn to the class's mean embedding.

    `weight` of the loss term; 0 switches it off. The mean moves with `momentum`; the background
    has `background` of them. `voxels_per_class` are drawn per batch, half of them at a boundary.
    """

    weight: float = Field(default=0.0, ge=0, le=100)
    embedding_length: int = Field(default=32, ge=2, le=512)
    temperature: float = Field(default=0.1, gt=0)
    background: int = Field(default=4, ge=1, le=32)
    momentum: float = Field(default=0.99, ge=0, lt=1)
    voxels_per_class: int = Field(default=256, ge=2)


class PseudoLabels(Settings):
    """Second stage: a moving average of the segmenter labels what nobody labelled.

    `weight` of the loss term; 0 switches it off. It begins when `begins_at` of a stage is done: a
    teacher that does not know a structure yet would teach that it is not there. It rises from 0 to
    `weight` over `ramp_share` of the stage, and counts where the teacher's probability reaches
    `confidence` (and the nearest prototype agrees, where there are prototypes). `momentum` is the
    teacher's, from step to step. `unannotated` patches are added to each batch from then on, where
    a hospital has scans without annotation. At full weight `mixed_share` of the batches have a box
    swapped among their patches.

    With `teacher_from`, the teacher speaks of the classes that have this Dice, at least, on the
    slices that all hospitals hold back; to it all others are background. None: of every class.
    """

    weight: float = Field(default=0.0, ge=0, le=100)
    confidence: float = Field(default=0.0, ge=0, le=1)
    momentum: float = Field(default=0.99, ge=0, lt=1)
    teacher_from: Share | None = None
    begins_at: float = Field(default=0.5, ge=0, lt=1)
    ramp_share: float = Field(default=0.2, gt=0, le=1)
    unannotated: int = Field(default=2, ge=0, le=256)
    mixed_share: Share = 0.5


class FewLabels(Settings):
    """Learning from few labels, after exemplar learning (ELSNet)."""

    synthesis: Synthesis = Synthesis()
    prototypes: Prototypes = Prototypes()
    pseudo_labels: PseudoLabels = PseudoLabels()


class Distillation(Settings):
    """What the student learns from; the weights of the terms of its loss, 0 switches one off.

    `soft_predictions`: the segmenter's probabilities on the patches of a round. `labels`: what
    their labels say. `pairs`: the labels of scans that registration warped onto other scans, image
    and label together. `hint`: the features, on these, of a teacher that rebuilds the other scan;
    it rises from 0 over `hint_ramp_share` of a stage, and counts where the warped scan is within
    `hint_within` of the other (scans have a deviation of 1).

    The student's learning rate is the segmenter's times `learning_rate_factor`: a small network
    without residuals wants a larger one. A hospital's registration network trains
    `registration_steps` a round, its teacher as long as the student.
    """

    soft_predictions: float = Field(default=1.0, ge=0, le=100)
    labels: float = Field(default=0.0, ge=0, le=100)
    pairs: float = Field(default=0.0, ge=0, le=100)
    hint: float = Field(default=0.0, ge=0, le=100)
    hint_within: float = Field(default=0.5, gt=0)
    hint_ramp_share: float = Field(default=0.2, gt=0, le=1)
    registration_steps: int = Field(default=8, ge=0, le=100_000)
    learning_rate_factor: float = Field(default=1.0, gt=0, le=100)

    @model_validator(mode="after")
    def _check(self) -> "Distillation":
        if not (self.soft_predictions or self.labels or self.pairs):
            raise ValueError(
                "the student has nothing to learn its classes from: expected one of "
                "soft_predictions, labels and pairs above 0"
            )
        return self

    @property
    def uses_pairs(self) -> bool:
        """Whether scans are warped onto each other, and a hospital keeps networks for that."""
        return self.pairs > 0 or self.hint > 0

    @property
    def own_steps(self) -> int:
        """How many steps of a round train the registration network."""
        return self.registration_steps if self.uses_pairs else 0


class Release(Settings):
    """Which rounds may be given out: none that costs a hospital too much.

    A round is not promoted if some task of some hospital lost more than `most_loss` Dice on its
    held-back slices against the best promoted round; none: every round may be. A score on fewer
    than `least_slices` slices tells nothing and is left out.
    """

    most_loss: Share | None = None
    least_slices: int = Field(default=4, ge=1)
