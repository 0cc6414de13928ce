"""What this hospital has agreed to: bundles of code by their hash, and plans, each by a person.

Approvals stand in the node's folder, where the gate (bundles) and the worker (plans) look them up
for every task; the store's audit log keeps who gave and withdrew them, and when. Plans that were
asked for without an approval wait beside them for somebody to look at.
"""

import hashlib
import logging
from contextlib import AbstractContextManager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import tomli_w
from pydantic import Field, ValidationError

from client.gate import APPROVALS, REFUSED
from client.store.audit import write_audit
from client.store.store import Store
from common.errors import OneSliceError, SettingsError
from common.file_lock import hold_file
from common.plan import FederationPlan
from common.settings_file import Settings, read_settings
from common.whole_file import write_whole

log = logging.getLogger(__name__)

ASKED, APPROVED = "asked", "approved"
MOST_ASKED, MOST_ASKED_BYTES, MOST_APPROVED = 20, 200_000, 5
# The plan, the names and shapes of the tensors, the scores so far.
BESIDE_TENSORS_BYTES, FLOWER_LARGEST_BYTES = 8_000_000, 2**31
NOT_APPROVED = "this plan is not approved at this hospital yet"
APPROVED_EVENT, WITHDRAWN_EVENT = "approved", "approval_withdrawn"
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class NotApprovedError(OneSliceError):
    """A plan came that nobody at this hospital approved; `is_new` if it was not waiting yet."""

    def __init__(self, federation: str, *, is_new: bool) -> None:
        """`federation` is the plan's own name for itself."""
        super().__init__(
            f"the plan {federation} is not approved here: `oneslice hospital approve` shows it"
        )
        self.is_new = is_new


class ApprovedBundle(Settings):
    """Code that may run. `who` is a name as it was given, `time` UTC."""

    hash: Sha256
    who: str
    time: str


class ApprovedPlan(Settings):
    """A plan that may be trained.

    Attributes:
        federation: a short name that changes whenever the plan does.
        hash: over all of its values.
        message_bytes: what the tensors of its largest message weigh.
        who: who approved it.
        time: when, UTC.
        plan: all of it, to compare the next one with.
    """

    federation: str
    hash: Sha256
    message_bytes: int = Field(ge=0)
    who: str
    time: str
    plan: FederationPlan


class Approvals(Settings):
    """All that is in force, the oldest first."""

    bundles: tuple[ApprovedBundle, ...] = ()
    plans: tuple[ApprovedPlan, ...] = ()


def plan_hash(plan: FederationPlan) -> str:
    """The sha256 over all of the plan's values; the federation's name ends in its first letters."""
    return hashlib.sha256(plan.model_dump_json().encode()).hexdigest()


def read_approvals(node: Path) -> Approvals:
    """The approvals in force in a node's folder; none if there is no file.

    Raises:
        SettingsError: the file is damaged, or of another version; nothing is approved then.
    """
    path = node / APPROVALS
    try:
        return Approvals.model_validate_json(path.read_bytes())
    except FileNotFoundError:
        return Approvals()
    except OSError as error:
        raise SettingsError(f"{path} cannot be read: {error.strerror}") from None
    except ValidationError as error:
        raise SettingsError(
            f"{path} does not hold approvals ({error.error_count()} problems): move it away and "
            "approve again"
        ) from None


def is_bundle_approved(node: Path, bundle_hash: str) -> bool:
    """Whether code of this hash may run."""
    return bundle_hash in {one.hash for one in read_approvals(node).bundles}


def is_plan_approved(node: Path, plan: FederationPlan) -> bool:
    """Whether exactly this plan may be trained."""
    return plan_hash(plan) in {one.hash for one in read_approvals(node).plans}


def check_plan_approved(node: Path, plan: FederationPlan) -> None:
    """Lets an approved plan pass; keeps another one for a person to look at.

    Raises:
        NotApprovedError: it is not approved.
        SettingsError: the approvals cannot be read.
    """
    if not is_plan_approved(node, plan):
        raise NotApprovedError(plan.federation, is_new=_keep_asked(node, plan))


def largest_request_bytes(node: Path | None) -> int:
    """The longest message that any approved plan needs; without a node, the longest Flower sends.

    A plan that waits for its approval is asked for in a greeting, which holds no tensor.
    """
    if node is None:
        return FLOWER_LARGEST_BYTES
    try:
        plans = read_approvals(node).plans
    except SettingsError:
        plans = ()  # no plan is approved then; the answer says so
    return BESIDE_TENSORS_BYTES + max((one.message_bytes for one in plans), default=0)


def asked_plans(node: Path) -> list[FederationPlan]:
    """The plans that wait for an approval, the newest first; a file that is none is passed over."""
    plans = []
    for path in _newest_first(node / ASKED, "*.toml"):
        with suppress(SettingsError):
            plans.append(read_settings(FederationPlan, path))
    return plans


def asked_file(node: Path, plan: FederationPlan) -> Path:
    """Where a plan waits for its approval."""
    return node / ASKED / f"{plan.federation}.toml"


def approve(
    store: Store, node: Path, who: str, *, bundle: bytes | None, plans: list[FederationPlan]
) -> None:
    """Puts an approval into force, after writing it to the audit log.

    Args:
        store: the hospital's, for its audit log.
        node: the node's folder.
        who: the person who approves.
        bundle: the code, as Flower's bundle; its content is kept so that the next can be compared.
        plans: those that may be trained.
    """
    now = datetime.now(UTC).isoformat(timespec="seconds")
    new_plans = [_approved_plan(plan, who, now) for plan in plans]
    with _changing(node):
        before = read_approvals(node)
        bundles, agreed = list(before.bundles), list(before.plans)
        if bundle is not None:
            found = hashlib.sha256(bundle).hexdigest()
            bundles = [one for one in bundles if one.hash != found]
            bundles.append(ApprovedBundle(hash=found, who=who, time=now))
            write_audit(store, APPROVED_EVENT, {"bundle": found, "who": who})
            write_whole(node / APPROVED / f"{found}.fab", bundle)
            for path in _newest_first(node / APPROVED, "*.fab")[MOST_APPROVED:]:
                path.unlink(missing_ok=True)
        for new in new_plans:
            agreed = [*(one for one in agreed if one.hash != new.hash), new]
            audited = new.model_dump(mode="json", exclude={"plan", "time"})
            write_audit(store, APPROVED_EVENT, audited)
        _write(node, Approvals(bundles=tuple(bundles), plans=tuple(agreed)))
    if bundle is not None:
        (node / REFUSED / f"{hashlib.sha256(bundle).hexdigest()}.fab").unlink(missing_ok=True)
    for plan in plans:
        asked_file(node, plan).unlink(missing_ok=True)


def _approved_plan(plan: FederationPlan, who: str, now: str) -> ApprovedPlan:
    from client.traffic import message_bytes  # noqa: PLC0415  (loads torch)

    return ApprovedPlan(
        federation=plan.federation,
        hash=plan_hash(plan),
        message_bytes=message_bytes(plan),
        who=who,
        time=now,
        plan=plan,
    )


def withdraw(store: Store, node: Path, name: str, who: str) -> list[str]:
    """Takes approvals back.

    Args:
        store: the hospital's, for its audit log.
        node: the node's folder.
        name: a bundle's hash, or 8 or more of its first letters; or a plan's federation or name.
        who: the person who does it.

    Returns:
        What was taken back: hashes of bundles, names of federations.

    Raises:
        SettingsError: nothing of that name is approved.
    """
    with _changing(node):
        before = read_approvals(node)
        bundles = [one for one in before.bundles if _means(name, one.hash)]
        plans = [one for one in before.plans if name in (one.federation, one.plan.name, one.hash)]
        taken = [*(one.hash for one in bundles), *(one.federation for one in plans)]
        if not taken:
            known = [one.hash[:12] for one in before.bundles]
            known += [one.federation for one in before.plans]
            raise SettingsError(
                f"nothing called {name!r} is approved; approved are: {', '.join(known) or 'none'}"
            )
        # Out of force first: a withdrawal must not fail because the log's disk is full.
        kept = Approvals(
            bundles=tuple(one for one in before.bundles if one not in bundles),
            plans=tuple(one for one in before.plans if one not in plans),
        )
        _write(node, kept)
        write_audit(store, WITHDRAWN_EVENT, {"withdrawn": taken, "who": who})
    return taken


def _changing(node: Path) -> AbstractContextManager[None]:
    """One at a time: two commands at once must not lose each other's change."""
    return hold_file(node / "approvals.lock", wait=True)


def _means(name: str, found: str) -> bool:
    return len(name) >= 8 and found.startswith(name)


def _write(node: Path, approvals: Approvals) -> None:
    # Readable for the SuperNode's user as far as the folder is; nothing in it is secret.
    write_whole(node / APPROVALS, approvals.model_dump_json(indent=2))


def _keep_asked(node: Path, plan: FederationPlan) -> bool:
    """Keeps a plan that waits for an approval; whether it was not there before.

    The first that came stay: whoever asks for one plan after the other neither drives out one that
    somebody waits for nor makes the audit log longer.
    """
    path = asked_file(node, plan)
    if path.exists():
        return False
    if len(_newest_first(node / ASKED, "*.toml")) >= MOST_ASKED:
        log.warning("the plan %s is not kept: %d wait already", plan.federation, MOST_ASKED)
        return False
    text = tomli_w.dumps(plan.model_dump(mode="json", exclude_none=True))
    if len(text) > MOST_ASKED_BYTES:
        log.warning("the plan %s is too long to be kept: %d letters", plan.federation, len(text))
        return False
    try:
        write_whole(path, text)
    except OSError as error:
        log.warning("the plan %s could not be kept: %s", plan.federation, error)
        return False
    return True


def _newest_first(folder: Path, pattern: str) -> list[Path]:
    paths = folder.glob(pattern) if folder.is_dir() else ()
    return sorted(paths, key=lambda path: path.stat().st_mtime_ns, reverse=True)
