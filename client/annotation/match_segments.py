"""Which of the things painted in a file is which of the plan's labels."""

from collections.abc import Mapping, Sequence

from client.annotation.painted_files import Segment
from client.store.scans import plan_indexes
from common.errors import LabelDictionaryError, SettingsError
from common.label_names import comparable_name
from common.plan import FederationPlan, Label, Task

LEFT_OUT = 0


def read_map(entries: Sequence[str], plan: FederationPlan) -> dict[str, int]:
    """`3=1`, `Tumour=Lesion` and so on: what a number or name in the file is in the plan.

    0 on the right leaves something out. Names are compared as `comparable_name` has them.

    Raises:
        SettingsError: not of that form, or the plan has no such label.
    """
    found = {}
    for entry in entries:
        painted, is_given, label = entry.rpartition("=")
        index = _index_of(label, plan)
        if not is_given or not painted.strip() or index is None:
            labels = ", ".join(f"{one.index} {one.name}" for one in plan.labels)
            raise SettingsError(
                f"--map {entry}: expected VALUE=LABEL or NAME=LABEL, where LABEL is 0 (leave it "
                f"out) or one of the plan's: {labels}"
            )
        found[comparable_name(painted)] = index
    return found


def match_segments(
    voxels: Mapping[Segment, int], told: Mapping[str, int], plan: FederationPlan, task: Task
) -> dict[Segment, int]:
    """The label index of each painted segment; 0 for what the task does not paint.

    What was told goes first, then the names, then the SNOMED codes; numbers count only in a file
    without names. A label of another task is no part of this one and is left out.

    Args:
        voxels: how many voxels are painted of each; those of none need no label.
        told: as `read_map` gives it.
        plan: with the label dictionary.
        task: whose classes are painted.

    Raises:
        LabelDictionaryError: something painted is none of the plan's labels, with a table.
        SettingsError: something was told of what is not in the file, or of another task's label.
    """
    _check_told(voxels, told, plan, task)
    index_of = {segment: _match(segment, voxels, told, plan) for segment in voxels}
    if any(index is None and voxels[segment] for segment, index in index_of.items()):
        raise LabelDictionaryError(
            f"the file holds what the plan has no label for:\n{_table(voxels, index_of, plan)}\n"
            "say which is which with --map VALUE=LABEL or --map NAME=LABEL; LABEL 0 leaves it out"
        )
    classes = plan.class_indexes(task)
    return {
        segment: index if index in classes else LEFT_OUT
        for segment, index in index_of.items()
        if index is not None
    }


def _index_of(label: str, plan: FederationPlan) -> int | None:
    by_name = {comparable_name(one.name): one.index for one in plan.labels}
    known = {str(LEFT_OUT): LEFT_OUT, **{str(one.index): one.index for one in plan.labels}}
    return known.get(label.strip(), by_name.get(comparable_name(label)))


def _keys_of(segment: Segment) -> set[str]:
    return {str(segment.value), *([comparable_name(segment.name)] if segment.name else [])}


def _check_told(
    voxels: Mapping[Segment, int], told: Mapping[str, int], plan: FederationPlan, task: Task
) -> None:
    classes = (LEFT_OUT, *plan.class_indexes(task))
    for key, index in told.items():
        meant = [segment for segment in voxels if key in _keys_of(segment)]
        if len(meant) != 1:
            raise SettingsError(
                f"--map {key}=...: expected the number or name of one thing in the file, found "
                f"{len(meant)} of that; there are:\n{_table(voxels, {}, plan)}"
            )
        if index not in classes:
            raise SettingsError(
                f"--map {key}=...: {_label(plan, index).name!r} is not painted for the task "
                f"{task.name!r}, which takes {', '.join(task.classes)}"
            )


def _match(
    segment: Segment, voxels: Mapping[Segment, int], told: Mapping[str, int], plan: FederationPlan
) -> int | None:
    for key in sorted(_keys_of(segment) & set(told)):
        return told[key]
    if segment.name:
        by_name = plan_indexes({segment.value: segment.name}, {}, plan).get(segment.value)
        if by_name is not None:
            return by_name
    if segment.snomed is not None:
        by_code = [label.index for label in plan.labels if label.snomed == segment.snomed]
        if len(by_code) == 1:
            return by_code[0]
    if any(other.name for other in voxels):
        return None
    return plan_indexes({}, {segment.value: 1}, plan).get(segment.value)


def _label(plan: FederationPlan, index: int) -> Label:
    return next(label for label in plan.labels if label.index == index)


def _table(
    voxels: Mapping[Segment, int], index_of: Mapping[Segment, int | None], plan: FederationPlan
) -> str:
    lines = [f"  {'value':>5}  {'name':<28}{'SNOMED':>12}{'voxels':>12}  plan"]
    for segment, number in voxels.items():
        index = index_of.get(segment)
        counterpart = "-" if not index else _label(plan, index).name
        name, code = segment.name or "(unnamed)", segment.snomed or "-"
        lines.append(f"  {segment.value:>5}  {name:<28}{code:>12}{number:>12}  {counterpart}")
    return "\n".join(lines)
