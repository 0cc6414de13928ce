"""How the desk's commands print for a person."""

from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from client.check import Check
from client.egress import Content, Sent
from client.policy import POLICY_FILE, Policy
from client.store.forget import Proof
from client.store.status import STATES, Status
from common.printable import printable

if TYPE_CHECKING:
    from client.leak_probe import Probe

MOST_NAMES = 5  # of the cases that were set aside for the same reason


def print_status(
    found: Status, sent: Sent | None, policy: Policy | None, broken_policy: str
) -> None:
    """All of `hospital status`."""
    print(found.hospital)
    columns = ("scans", *STATES, "quarantined")
    print(f"\n{'task':<20}" + "".join(f"{name:>12}" for name in columns))
    for task in found.tasks:
        numbers = (task.scans, *(task.states[state] for state in STATES), task.quarantined)
        print(f"{task.task:<20}" + "".join(f"{number:>12}" for number in numbers))
    print(f"\n{found.slices} slices painted in {found.minutes:g} minutes")
    if found.withdrawn:
        print(f"{found.withdrawn} scans withdrawn")
    _print_quarantine(found)
    for federation, number in found.rounds.items():
        print(f"federation {federation}: round {number} answered")
    print(_say_sent(sent))
    print(f"audit log: {found.audit_rows} rows")
    if policy is None:
        print(f"policy: broken, so no round is answered: {broken_policy}")
        return
    changed = policy.model_dump(exclude_defaults=True)
    rules = "; ".join(f"{key} = {value}" for key, value in changed.items())
    print(f"policy: {rules or 'all that OneSlice ever asks is allowed'}")


def _say_sent(sent: Sent | None) -> str:
    if sent is None:
        return "nothing was sent yet"
    note, content = sent.content.note, sent.content
    why = f" ({note['reason']})" if note["reason"] else ""
    return (
        f"sent last: {sent.time}, {note['outcome']}{why}, round {note['round']}, "
        f"{len(content.tensors)} tensors, {content.num_bytes} bytes (see `hospital egress`)"
    )


def _print_quarantine(found: Status) -> None:
    cases: dict[tuple[str, str], list[str]] = defaultdict(list)
    for task, case, reason in found.quarantine:
        cases[task, reason].append(case)
    if cases:
        print("\nset aside:")
    for (task, reason), names in cases.items():
        shown = ", ".join(names[:MOST_NAMES])
        more = f" and {len(names) - MOST_NAMES} more" if len(names) > MOST_NAMES else ""
        print(f"  {task}: {shown}{more}: {reason}")
    print()


def print_policy(policy: Policy, folder: Path) -> None:
    """The policy as TOML; what has no limit is a comment."""
    path = folder / POLICY_FILE
    origin = f"from {path}" if path.exists() else f"the defaults; {path} does not exist"
    print(f"# the policy in force: {origin}")
    for key, value in policy.model_dump(mode="json").items():
        print(f"# {key}: no limit" if value is None else f"{key} = {_toml(value)}")


def _toml(value: object) -> str:
    if isinstance(value, list):
        return "[" + ", ".join(f'"{one}"' for one in value) + "]"
    return str(value)


def print_content(facts: Mapping[str, object], content: Content) -> None:
    """A message: the facts about it, its tensors, its numbers."""
    for name, value in facts.items():
        if value is not None:
            print(f"{name:<16}{value}")
    print(f"{'bytes':<16}{content.num_bytes}")
    print(f"\n{len(content.tensors)} tensors")
    for tensor in content.tensors:
        shape = "x".join(map(str, tensor.shape)) or "one number"
        print(f"  {tensor.name:<56}{tensor.dtype:<9}{shape:<16}{tensor.num_bytes:>12} bytes")
    print("\nnote")
    for name, value in content.note.items():
        print(f"  {name:<18}{value}")


def print_probe(found: "Probe") -> None:
    """What each attack brought back, how to read it, and the policy's verdict."""
    model = f"the model of round {found.round}" if found.round else "fresh weights"
    size = " x ".join(map(str, found.patch_voxels))
    print(f"{model}, patches of {size} voxels, labels known to the attacker; nothing was sent\n")
    print(f"{'what is seen':<24}{'patches':>8}{'match':>8}{'by chance':>11}")
    for leak in found.leaks:
        print(f"{leak.seen:<24}{leak.num_patches:>8}{leak.match:>8.2f}{leak.by_chance:>11.2f}")
    print(
        "\nmatch: the correlation of the best rebuilt patch with a true one (1: the same);\n"
        "by chance: of other patches of this hospital with it. The last row is what leaves."
    )
    leak = found.leaks[-1]
    more = leak.match > leak.by_chance
    print(
        f"a round's update showed this attack {'MORE' if more else 'no more'} of a patch than any "
        "other patch of this hospital shows; another attack may do better"
    )
    if found.most_leak is None:
        print("no verdict: the policy has no most_leak")
    else:
        verdict = "TOO MUCH" if found.too_much else "within the policy"
        print(f"{verdict}: {leak.match:.2f}, most_leak is {found.most_leak:g}")


def print_proof(proof: Proof) -> None:
    """What went of a scan, what stays, and which models saw it."""
    print(f"{proof.scan_id} withdrawn {proof.time}")
    rows = ", ".join(f"{table} {number}" for table, number in proof.rows.items())
    print(f"  rows removed: {rows}")
    print(f"  arrays removed: {len(proof.arrays)}")
    for key in proof.arrays:
        print(f"    sha256 {key}")
    if proof.shared_arrays:
        print(f"  {len(proof.shared_arrays)} arrays stay: another scan has the same content")
    if not proof.uses:
        print("  no round used it")
    for use in proof.uses:
        print(
            f"  federation {use.federation}: {use.part} in rounds {use.first_round} to "
            f"{use.last_round}"
        )
    trained = [use for use in proof.uses if use.part != "scored"]
    for federation in sorted({use.federation for use in trained} - set(proof.derived)):
        first = min(use.first_round for use in trained if use.federation == federation)
        print(f"  the models of {federation} from round {first} on derive from it")
    for federation in proof.derived:
        print(f"  all models of {federation}, which went on from those, derive from it")
    for reply in proof.replies:
        print(f"  {reply}: weights trained on it; kept, not sent again")
    if proof.named_in_audit:
        rows = ", ".join(map(str, proof.named_in_audit))
        print(f"  the audit log names it in rows {rows}, which cannot be changed")
    print("  it may not come back, unless `ingest --again-allowed CASE` says so")


def print_check(check: Check) -> None:
    """One line, and two more if something is wrong."""
    # Some of it is what a server answered, or the name of a file that code from outside wrote.
    found, problem, to_do = map(printable, (check.found, check.problem, check.what_to_do))
    print(f"{'PROBLEM' if problem else 'ok':<9}{check.check:<24}{found}")
    if problem:
        print(f"{'':<9}{problem}\n{'':<9}-> {to_do}")
