"""What a person is asked to approve, set beside what was approved before."""

import difflib
from dataclasses import dataclass
from pathlib import Path

from client.approvals import (
    APPROVED,
    asked_file,
    asked_plans,
    is_bundle_approved,
    is_plan_approved,
    read_approvals,
)
from client.node import Node
from client.policy import ALL_METRICS, read_policy
from client.store.store import Store
from client.traffic import NetworkTraffic, traffic_of
from common.bundle import build_bundle, bundle_files, bundle_hash, stage_bundle
from common.errors import SettingsError
from common.plan import FederationPlan
from common.settings_file import read_settings
from common.updates import Note

NOTHING = "(nothing)"


@dataclass(frozen=True)
class FileChange:
    """A file of the bundle that is not as it was: added, removed or changed, line by line."""

    path: str
    how: str
    diff: str


@dataclass(frozen=True)
class BundleProposal:
    """The code that may be approved.

    Attributes:
        hash: its sha256.
        own: whether it is what this hospital's own installation builds.
        approved: whether it is approved already.
        came_last: the hash of the newest bundle that was refused here; None if none was.
        compared_with: the bundle approved last; if there was none, this installation's own; None
            if this is the first and the own, and all files are new.
        changes: the files that differ from that one's.
    """

    hash: str
    own: bool
    approved: bool
    came_last: str | None
    compared_with: str | None
    changes: tuple[FileChange, ...]


@dataclass(frozen=True)
class KeyChange:
    """A key of the plan and its two values, as text."""

    key: str
    before: str
    after: str


@dataclass(frozen=True)
class GoesOn:
    """The federation that a plan goes on from, after which round, and if that is approved here."""

    federation: str
    after_round: int
    is_approved: bool


@dataclass(frozen=True)
class PlanProposal:
    """A plan that may be approved.

    Attributes:
        federation: the plan's own name.
        approved: whether it is approved already.
        compared_with: the plan that it goes on from, else that of its name approved last, else the
            last of any; None: the first.
        changes: the keys that differ from it, or all of them.
        rounds: how often the hospital is asked, in all.
        sends: what leaves, network by network.
        goes_on: from which earlier federation, if from one.
    """

    federation: str
    approved: bool
    compared_with: str | None
    changes: tuple[KeyChange, ...]
    rounds: int
    sends: tuple[NetworkTraffic, ...]
    goes_on: GoesOn | None = None


@dataclass(frozen=True)
class Proposal:
    """All that is approved at once.

    `note` are the numbers that leave beside the tensors, `withheld` those that the policy keeps,
    `networks` whose weights it lets out, `address` where all goes; None: not joined yet.
    """

    bundle: BundleProposal | None
    plans: tuple[PlanProposal, ...]
    note: tuple[str, ...]
    withheld: tuple[str, ...]
    networks: tuple[str, ...]
    address: str | None


def own_bundle(node: Node) -> bytes:
    """Flower's bundle as this hospital's own installation builds it; kept in the node's folder.

    Raises:
        SettingsError: it cannot be built.
    """
    stage_bundle(node.staged_app)
    return build_bundle(node.staged_app, node.path).read_bytes()


def wanted_plans(node: Node, file: Path | None) -> list[FederationPlan]:
    """The plan in the file, else the one that was asked for; none if none was.

    Raises:
        SettingsError: the file holds no plan, or several were asked for.
    """
    if file is not None:
        return [read_settings(FederationPlan, file)]
    asked = asked_plans(node.path)
    if len(asked) > 1:
        options = "\n".join(f"  --plan {asked_file(node.path, plan)}" for plan in asked)
        raise SettingsError(
            f"{len(asked)} plans wait for an approval: choose one, by the same command with\n"
            f"{options}\nand delete the files of those that nobody should approve"
        )
    return asked


def propose(
    store: Store, node: Node, own: bytes, bundle: bytes | None, plans: list[FederationPlan]
) -> Proposal:
    """What would be approved.

    Args:
        store: the hospital's; its policy says what is kept back.
        node: where the approvals are.
        own: the bundle that this installation builds.
        bundle: the one to approve; None: plans only.
        plans: those to approve.

    Raises:
        SettingsError: the bundle is none, or the approvals or the policy cannot be read.
    """
    policy = read_policy(store.folder)
    kept = tuple(name for name in Note.model_fields if name not in _let_through(policy.metrics))
    address = None
    if node.invitation_file.exists():
        invitation = node.read_invitation()
        address = f"{invitation.address}:{invitation.port} ({invitation.consortium})"
    return Proposal(
        bundle=None if bundle is None else _propose_bundle(node, own, bundle),
        plans=tuple(_propose_plan(node, plan) for plan in plans),
        note=tuple(name for name in Note.model_fields if name not in kept),
        withheld=kept,
        networks=tuple(policy.networks),
        address=address,
    )


def _let_through(metrics: tuple[str, ...]) -> set[str]:
    return (set(Note.model_fields) - set(ALL_METRICS)) | set(metrics)


def _propose_bundle(node: Node, own: bytes, bundle: bytes) -> BundleProposal:
    approved = read_approvals(node.path).bundles
    kept = [node.path / APPROVED / f"{one.hash}.fab" for one in approved]
    last = next((path for path in reversed(kept) if path.exists()), None)
    compared = last.read_bytes() if last is not None else None if bundle == own else own
    before = {} if compared is None else bundle_files(compared)
    came = sorted(node.refused.glob("*.fab"), key=lambda path: path.stat().st_mtime_ns)
    return BundleProposal(
        hash=bundle_hash(bundle),
        own=bundle == own,
        approved=is_bundle_approved(node.path, bundle_hash(bundle)),
        came_last=came[-1].stem if came else None,
        compared_with=None if compared is None else bundle_hash(compared),
        changes=changed_files(before, bundle_files(bundle)),
    )


def changed_files(before: dict[str, bytes], after: dict[str, bytes]) -> tuple[FileChange, ...]:
    """Which files of two bundles differ, and how."""
    changes = []
    for path in sorted(before.keys() | after.keys()):
        one, other = before.get(path), after.get(path)
        if one != other:
            how = "added" if one is None else "removed" if other is None else "changed"
            changes.append(FileChange(path, how, _diff(path, one or b"", other or b"")))
    return tuple(changes)


def _diff(path: str, before: bytes, after: bytes) -> str:
    old, new = (data.decode("utf-8", errors="replace").splitlines() for data in (before, after))
    lines = difflib.unified_diff(old, new, f"before/{path}", f"after/{path}", lineterm="")
    return "\n".join(lines)


def _propose_plan(node: Node, plan: FederationPlan) -> PlanProposal:
    approved = read_approvals(node.path).plans
    earlier = plan.extends
    extended = [one for one in approved if earlier and one.federation == earlier.federation]
    same_name = [one for one in approved if one.plan.name == plan.name]
    last = next(reversed(extended or same_name or list(approved)), None)
    return PlanProposal(
        federation=plan.federation,
        approved=is_plan_approved(node.path, plan),
        compared_with=None if last is None else last.federation,
        changes=changed_keys(None if last is None else last.plan, plan),
        rounds=plan.num_rounds - plan.begins_after,
        sends=traffic_of(plan),
        goes_on=None
        if earlier is None
        else GoesOn(earlier.federation, earlier.round, is_approved=bool(extended)),
    )


def changed_keys(before: FederationPlan | None, after: FederationPlan) -> tuple[KeyChange, ...]:
    """Which keys of two plans differ; all keys if there was none before."""
    old = {} if before is None else _flat("", before.model_dump(mode="json"))
    new = _flat("", after.model_dump(mode="json"))
    keys = [*new, *(key for key in old if key not in new)]
    pairs = [(key, old.get(key, NOTHING), new.get(key, NOTHING)) for key in keys]
    return tuple(KeyChange(*one) for one in pairs if one[1] != one[2])


def _flat(prefix: str, value: object) -> dict[str, str]:
    """Nested keys as `tasks.0.name`, values as text."""
    if isinstance(value, list) and any(isinstance(one, dict) for one in value):
        value = {str(place): one for place, one in enumerate(value)}
    if not isinstance(value, dict):
        return {prefix: str(value)}
    flat: dict[str, str] = {}
    for key, one in value.items():
        flat |= _flat(f"{prefix}.{key}" if prefix else str(key), one)
    return flat


def chosen_bundle(node: Node, own: bytes, file: Path | None) -> bytes:
    """The bundle in the file, else the hospital's own.

    Raises:
        SettingsError: the file cannot be read.
    """
    if file is None:
        return own
    try:
        return file.read_bytes()
    except OSError as error:
        raise SettingsError(
            f"{file} cannot be read: {error.strerror}; those that came and were refused are in "
            f"{node.refused}"
        ) from None
