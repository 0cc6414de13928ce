"""What hospitals' own files call the plan's labels, and where they differ.

Nothing stops for it: different names may mean the same, and the same name something else. Somebody
has to look.
"""

import logging

from pydantic import ValidationError

from common.label_names import comparable_name
from common.printable import printable
from common.settings_file import Settings
from common.updates import Note
from common.whole_file import write_whole
from server.run_folder import RunFolder

log = logging.getLogger(__name__)
LOOK = "hospitals call labels by different names; see that they mean the same before you go on:"


class NameUse(Settings):
    """A name, the plan's label that it counts as, and the hospitals whose files use it so."""

    label: str
    name: str
    hospitals: tuple[str, ...]


class HeardNames(Settings):
    """label_names.json: hospital -> the plan's label -> what it is called there."""

    hospitals: dict[str, dict[str, tuple[str, ...]]] = {}


def hear_names(folder: RunFolder, greeting: Note) -> None:
    """Keeps the names that a hospital greets with; the log shows the table if it is new there."""
    heard, names = read_names(folder), greeting.label_names
    if heard.hospitals.get(greeting.hospital, {}) == names:
        return
    changed = HeardNames(hospitals={**heard.hospitals, greeting.hospital: names})
    try:
        write_whole(folder.label_names_file, changed.model_dump_json(indent=2))
    except OSError as error:  # a full disk: the rounds say so themselves
        log.warning("%s cannot be written: %s", folder.label_names_file, error)
    uses = differing_names(changed)
    if uses != differing_names(heard):
        log.warning("%s", "\n".join(names_table(uses)) or "hospitals call labels by the same names")


def read_names(folder: RunFolder) -> HeardNames:
    """What was heard so far; nothing if the file is damaged."""
    try:
        return HeardNames.model_validate_json(folder.label_names_file.read_bytes())
    except FileNotFoundError:
        return HeardNames()
    except ValidationError:
        log.warning("%s is damaged and says nothing", folder.label_names_file)
        return HeardNames()


def differing_names(heard: HeardNames) -> tuple[NameUse, ...]:
    """All uses of the labels about which hospitals differ, by label and name.

    They differ about a label if the names for it are not the same everywhere, and about all labels
    that one name counts as. Case and signs make no difference. A hospital without a name for a
    label has painted it on the page, or not at all.
    """
    hospitals_of: dict[tuple[str, str], list[str]] = {}
    spelled: dict[str, str] = {}
    for hospital, labels in sorted(heard.hospitals.items()):
        for label, names in labels.items():
            for name in {comparable_name(name): name for name in names}.values():
                spelled.setdefault(comparable_name(name), name)
                hospitals_of.setdefault((label, comparable_name(name)), []).append(hospital)
    in_question = _labels_in_question(heard, set(hospitals_of))
    return tuple(
        NameUse(label=label, name=spelled[name], hospitals=tuple(hospitals))
        for (label, name), hospitals in sorted(hospitals_of.items())
        if label in in_question
    )


def _labels_in_question(heard: HeardNames, uses: set[tuple[str, str]]) -> set[str]:
    found = set()
    for label in {label for label, _ in uses}:
        named = [labels[label] for labels in heard.hospitals.values() if labels.get(label)]
        if len({frozenset(map(comparable_name, names)) for names in named}) > 1:
            found.add(label)
    for _, name in uses:
        labels_of_name = {label for label, other in uses if other == name}
        if len(labels_of_name) > 1:
            found |= labels_of_name
    return found


def names_table(uses: tuple[NameUse, ...]) -> list[str]:
    """Lines for people; none if hospitals agree."""
    if not uses:
        return []
    lines = [LOOK, f"  {'label of the plan':<24}{'called':<32}at"]
    for use in uses:
        lines.append(f"  {use.label:<24}{use.name:<32}{', '.join(use.hospitals)}")
    return [printable(line) for line in lines]
