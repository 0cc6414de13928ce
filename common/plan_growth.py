"""What may be different in a plan that goes on from an earlier federation.

Labels and tasks may be appended. What was trained stays as it was: a class is an output channel of
the networks and a value in every mask, a trained task a stage that is counted in every hospital's
state, and what was held back judges what was trained on the rest. How hospitals train and how their
models are combined may change freely.
"""

from common.errors import SettingsError
from common.plan import FederationPlan, Label
from common.settings_file import Settings, differences


def check_growth(before: FederationPlan, after: FederationPlan, round_number: int) -> None:
    """Refuses a plan that cannot go on from another one after that round of it.

    Raises:
        SettingsError: names every difference that may not be, and what to do.
    """
    problems = [
        *_label_problems(before.labels, after.labels),
        *_task_problems(before, after, round_number),
        *_size_problems(before, after),
        *_held_back_problems(before, after),
        *_privacy_problems(before, after),
    ]
    if problems:
        listed = "\n".join(f"  {problem}" for problem in problems)
        raise SettingsError(
            f"{after.name} cannot go on from {before.federation} after its round {round_number}:\n"
            f"{listed}\n"
            "labels and trained tasks stay as they are, new ones are appended: mend the plan, or "
            "leave out `extends` to begin anew"
        )


def _label_problems(before: tuple[Label, ...], after: tuple[Label, ...]) -> list[str]:
    problems = []
    index_of = {label.name: label.index for label in after}
    at_index = {label.index: label for label in after}
    for label in before:
        index = index_of.get(label.name)
        new = at_index.get(label.index)
        if index == label.index and new is not None:
            if label.snomed not in (None, new.snomed):
                problems.append(
                    f"label {label.name!r} had the SNOMED code {label.snomed}, here it has "
                    f"{new.snomed or 'none'}: it would mean something else"
                )
        elif index is not None:
            problems.append(
                f"label {label.name!r} had the index {label.index}, here it has {index}"
            )
        elif new is not None:
            problems.append(f"label {label.index} was called {label.name!r}, here {new.name!r}")
        else:
            problems.append(f"label {label.name!r} (index {label.index}) is missing")
    return problems


def _task_problems(before: FederationPlan, after: FederationPlan, round_number: int) -> list[str]:
    problems = []
    for stage, task in enumerate(before.tasks):
        if before.last_round_of_stage(stage) - task.rounds >= round_number:
            break  # not begun: it may still change
        if stage >= len(after.tasks):
            problems.append(f"the trained task {task.name!r} (number {stage + 1}) is missing")
        elif after.tasks[stage] != task:
            changed = differences(task, after.tasks[stage])
            problems.append(
                f"the trained task {task.name!r} (number {stage + 1}) is different: {changed}"
            )
    return problems


def _size_problems(before: FederationPlan, after: FederationPlan) -> list[str]:
    problems = []
    if before.channels != after.channels:
        problems.append(f"channels was {before.channels}, here it is {after.channels}")
    sections: list[tuple[str, Settings, Settings]] = [
        ("segmenter", before.segmenter, after.segmenter),
        ("student", before.student, after.student),
    ]
    if before.correspondence.rounds or after.correspondence.rounds:
        # Its rounds are counted before all others, and its settings are those of its network.
        sections.append(("correspondence", before.correspondence, after.correspondence))
    for name, old, new in sections:
        if old != new:
            problems.append(f"[{name}] is different: {differences(old, new)}")
    old, new = before.few_labels.prototypes, after.few_labels.prototypes
    sizes = [(one.background, one.embedding_length) for one in (old, new)]
    if old.weight > 0 and new.weight > 0 and sizes[0] != sizes[1]:
        problems.append(f"[few_labels.prototypes] is different: {differences(old, new)}")
    return problems


def _held_back_problems(before: FederationPlan, after: FederationPlan) -> list[str]:
    old, new = before.training.held_back_share, after.training.held_back_share
    if old == new:
        return []
    return [
        f"training.held_back_share was {old:g}, here it is {new:g}: what judges "
        "the models would be other scans, or some that were trained on"
    ]


def _privacy_problems(before: FederationPlan, after: FederationPlan) -> list[str]:
    old, new = before.privacy, after.privacy
    if old == new or not (old.adds_noise or new.adds_noise):
        return []
    return [
        f"[privacy] is different: {differences(old, new)}; epsilon is reckoned over all rounds, "
        "with one noise"
    ]
