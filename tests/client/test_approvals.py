"""What a hospital agreed to: given, compared, shown, withdrawn, and written down each time."""

import io
import json
import os
import shutil
import stat
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest
import tomli_w
from pydantic import ValidationError

from client.approvals import (
    MOST_APPROVED,
    MOST_ASKED,
    Approvals,
    NotApprovedError,
    approve,
    asked_file,
    asked_plans,
    check_plan_approved,
    is_bundle_approved,
    is_plan_approved,
    largest_request_bytes,
    plan_hash,
    read_approvals,
    withdraw,
)
from client.cli import run
from client.coordinator_checks import check_asked
from client.desk_text import print_check
from client.node import Node
from client.node_status import print_node_status, read_node_status
from client.proposal import (
    BundleProposal,
    FileChange,
    GoesOn,
    KeyChange,
    changed_files,
    changed_keys,
    propose,
)
from client.proposal_text import MOST_LINES, print_proposal
from client.store.audit import read_audit, verify_audit
from client.store.store import Store, create_store
from client.traffic import message_bytes, traffic_of
from common.bundle import build_bundle, bundle_hash, stage_bundle
from common.errors import SettingsError
from common.networks.unet import build_networks, networks_to_arrays
from common.plan import FederationPlan

MakePlan = Callable[..., FederationPlan]
Desk = Callable[..., str]


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return create_store(tmp_path / "store", "north")


@pytest.fixture
def node(store: Store) -> Node:
    made = Node(store.folder / "federation")
    made.path.mkdir()
    return made


@pytest.fixture(scope="module")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> tuple[bytes, bytes]:
    """The installation's own bundle, and one with a line more and a file less."""
    folder = tmp_path_factory.mktemp("bundles")
    app = folder / "one" / "oneslice"
    stage_bundle(app)
    own = build_bundle(app, folder / "one").read_bytes()
    other = folder / "two" / "oneslice"
    shutil.copytree(app, other)
    with (other / "client" / "app.py").open("a") as file:
        file.write("SENDS_MORE = True\n")
    (other / "server" / "report.py").unlink()
    (other / "server" / "spy.py").write_text("x = 1\n")
    return own, build_bundle(other, folder / "two").read_bytes()


# In force ---------------------------------------------------------------------------------------


def test_exactly_what_was_approved_is(store: Store, node: Node, make_plan: MakePlan) -> None:
    plan = make_plan()
    assert not is_plan_approved(node.path, plan)
    approve(store, node.path, "ines", bundle=b"code", plans=[plan])
    assert is_plan_approved(node.path, plan)
    assert not is_plan_approved(node.path, make_plan(seed=1))
    assert is_bundle_approved(node.path, bundle_hash(b"code"))
    assert not is_bundle_approved(node.path, bundle_hash(b"code2"))
    assert plan.federation.endswith(plan_hash(plan)[:8])


def test_who_and_when_go_into_the_audit_log(store: Store, node: Node, make_plan: MakePlan) -> None:
    plan = make_plan()
    approve(store, node.path, "ines", bundle=b"code", plans=[plan])
    assert withdraw(store, node.path, plan.federation, "omar") == [plan.federation]
    rows = [(row.event, json.loads(row.details)) for row in read_audit(store)]
    assert [event for event, _ in rows] == ["approved", "approved", "approval_withdrawn"]
    assert rows[0][1] == {"bundle": bundle_hash(b"code"), "who": "ines"}
    assert rows[1][1]["hash"] == plan_hash(plan)
    assert rows[2][1] == {"withdrawn": [plan.federation], "who": "omar"}
    verify_audit(store)
    (kept,) = read_approvals(node.path).bundles
    assert (kept.who, kept.time[:2]) == ("ines", "20")


def test_withdrawing_by_hash_or_by_name(store: Store, node: Node, make_plan: MakePlan) -> None:
    one, other = make_plan(), make_plan(seed=1)
    approve(store, node.path, "ines", bundle=b"code", plans=[one, other])
    found = bundle_hash(b"code")
    with pytest.raises(SettingsError, match="nothing called 'elsewhere' is approved; approved are"):
        withdraw(store, node.path, "elsewhere", "ines")
    with pytest.raises(SettingsError, match="nothing called"):
        withdraw(store, node.path, found[:7], "ines")
    assert withdraw(store, node.path, found[:8], "ines") == [found]
    assert withdraw(store, node.path, one.name, "ines") == [one.federation, other.federation]
    assert read_approvals(node.path).plans == ()


def test_a_second_approval_replaces_the_first(
    store: Store, node: Node, make_plan: MakePlan
) -> None:
    for who in ("ines", "omar"):
        approve(store, node.path, who, bundle=b"code", plans=[make_plan()])
    approvals = read_approvals(node.path)
    assert [one.who for one in (*approvals.bundles, *approvals.plans)] == ["omar", "omar"]
    for number in range(MOST_APPROVED + 2):
        approve(store, node.path, "ines", bundle=b"%d" % number, plans=[])
    assert len(list((node.path / "approved").iterdir())) == MOST_APPROVED
    assert is_bundle_approved(node.path, bundle_hash(b"code")), "only the copy was dropped"


@pytest.mark.parametrize("text", ["", "{", "[]", '{"bundles": [1]}', '{"all": true}'])
def test_damaged_approvals_approve_nothing(node: Node, make_plan: MakePlan, text: str) -> None:
    node.approvals_file.write_text(text)
    with pytest.raises(SettingsError, match=r"approvals\.json does not hold approvals"):
        is_plan_approved(node.path, make_plan())


def test_approvals_and_withdrawals_at_once_lose_nothing(
    store: Store, node: Node, make_plan: MakePlan
) -> None:
    plans = [make_plan(seed=seed) for seed in range(8)]
    message_bytes(plans[0])  # loads torch, which would hold the first one up
    approve(store, node.path, "ines", bundle=None, plans=plans[:4])

    def change(plan: FederationPlan) -> None:
        if plan in plans[:4]:
            withdraw(store, node.path, plan.federation, "omar")
        else:
            approve(store, node.path, "ines", bundle=plan.federation.encode(), plans=[plan])

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(change, plans))
    approvals = read_approvals(node.path)
    assert {one.federation for one in approvals.plans} == {one.federation for one in plans[4:]}
    assert {one.hash for one in approvals.bundles} == {
        bundle_hash(one.federation.encode()) for one in plans[4:]
    }
    assert stat.S_IMODE((node.path / "approvals.lock").stat().st_mode) == 0o600


# Asked ------------------------------------------------------------------------------------------


def test_plans_that_were_asked_for_wait_and_are_bounded(
    store: Store, node: Node, make_plan: MakePlan
) -> None:
    for seed in range(MOST_ASKED):
        plan = make_plan(seed=seed)
        for is_new in (True, False):
            with pytest.raises(NotApprovedError) as refused:
                check_plan_approved(node.path, plan)
            assert refused.value.is_new == is_new
        os.utime(asked_file(node.path, plan), ns=(seed, seed))
    # The first that came stay, and one more is no news for the audit log.
    for seed in range(MOST_ASKED, MOST_ASKED + 3):
        with pytest.raises(NotApprovedError) as refused:
            check_plan_approved(node.path, make_plan(seed=seed))
        assert not refused.value.is_new
    waiting = asked_plans(node.path)
    assert [one.seed for one in waiting] == list(range(MOST_ASKED - 1, -1, -1))
    (node.asked / "note.toml").write_text("no plan")
    assert asked_plans(node.path) == waiting
    approve(store, node.path, "ines", bundle=None, plans=[plan])
    check_plan_approved(node.path, plan)
    assert plan not in asked_plans(node.path)


def test_a_plan_that_is_too_long_is_refused_and_not_kept(node: Node, make_plan: MakePlan) -> None:
    labels = [{"name": f"{number:060d}", "index": number} for number in range(1, 255)]
    tasks = [
        {
            "name": f"task-{number}",
            "classes": [one["name"] for one in labels],
            "modality": "MR",
            "plane": "axial",
            "rounds": 1,
        }
        for number in range(20)
    ]
    with pytest.raises(NotApprovedError):
        check_plan_approved(node.path, make_plan(labels=labels, tasks=tasks))
    assert asked_plans(node.path) == []


def test_the_longest_message_follows_from_the_approved_plans(
    store: Store, node: Node, make_plan: MakePlan
) -> None:
    before = largest_request_bytes(node.path)
    plan = make_plan()
    approve(store, node.path, "ines", bundle=None, plans=[plan])
    arrays = networks_to_arrays(build_networks(plan))
    weight = sum(array.nbytes for array in arrays.values())
    assert largest_request_bytes(node.path) - before == message_bytes(plan) == weight
    segmenter = traffic_of(plan)[0]
    names = [name for name in arrays if name.startswith("segmenter/")]
    assert (segmenter.tensors, segmenter.rounds) == (len(names), 4)
    assert segmenter.parameters == sum(arrays[name].size for name in names)


# Shown ------------------------------------------------------------------------------------------


def test_bundles_are_compared_file_by_file(bundles: tuple[bytes, bytes]) -> None:
    from common.bundle import bundle_files

    own, other = (bundle_files(one) for one in bundles)
    changes = changed_files(own, other)
    assert [(one.how, one.path) for one in changes] == [
        ("changed", "client/app.py"),
        ("removed", "server/report.py"),
        ("added", "server/spy.py"),
    ]
    assert "+SENDS_MORE = True" in changes[0].diff.splitlines()
    assert "+x = 1" in changes[2].diff
    assert changed_files(own, own) == ()


def test_plans_are_compared_key_by_key(make_plan: MakePlan) -> None:
    before, after = make_plan(), make_plan(seed=3, training={"batch_size": 4})
    changes = {one.key: (one.before, one.after) for one in changed_keys(before, after)}
    assert changes == {"seed": ("0", "3"), "training.batch_size": ("2", "4")}
    fewer = before.model_copy(update={"tasks": before.tasks[:1]})
    gone = {one.key: one.after for one in changed_keys(before, fewer)}
    assert gone["tasks.1.name"] == "(nothing)"
    assert len(changed_keys(None, before)) > 50


def test_a_plan_that_goes_on_is_set_beside_the_one_that_it_goes_on_from(
    store: Store, node: Node, make_plan: MakePlan, capsys: pytest.CaptureFixture[str]
) -> None:
    before, newer = make_plan(), make_plan(seed=1)
    tasks = [task.model_dump() for task in before.tasks]
    after = make_plan(
        tasks=[*tasks, {**tasks[0], "name": "third"}],
        extends={"federation": before.federation, "round": 4},
    )
    print_proposal(propose(store, node, b"", None, [after]), diff=False)
    told = capsys.readouterr().out
    assert f"goes on from {before.federation} after its round 4" in told
    assert "THAT PLAN IS NOT APPROVED HERE" in told
    approve(store, node.path, "ines", bundle=None, plans=[before, newer])
    (plan,) = propose(store, node, b"", None, [after]).plans
    assert plan.goes_on == GoesOn(before.federation, 4, is_approved=True)
    assert plan.compared_with == before.federation
    assert {one.key.split(".")[0] for one in plan.changes} == {"extends", "tasks"}
    # The two rounds of the new task, and not those that were done.
    assert plan.rounds == 2
    assert [one.rounds for one in plan.sends] == [2, 2]
    print_proposal(propose(store, node, b"", None, [after]), diff=False)
    assert "NOT APPROVED HERE" not in capsys.readouterr().out


def test_what_will_leave_follows_the_policy(
    store: Store, node: Node, make_plan: MakePlan, bundles: tuple[bytes, bytes]
) -> None:
    (store.folder / "policy.toml").write_text('metrics = ["loss"]\nnetworks = ["segmenter"]\n')
    proposal = propose(store, node, bundles[0], bundles[1], [make_plan()])
    assert "scores" in proposal.withheld
    assert {"hospital", "loss"} <= set(proposal.note)
    assert proposal.networks == ("segmenter",)
    assert proposal.bundle is not None
    assert not proposal.bundle.own
    assert propose(store, node, b"", None, []).bundle is None


# The command ------------------------------------------------------------------------------------


@pytest.fixture
def desk(store: Store, capsys: pytest.CaptureFixture[str]) -> Desk:
    """Runs the command; its output, after the exit code was checked."""

    def type_in(*words: str, code: int = 0) -> str:
        capsys.readouterr()
        with pytest.raises(SystemExit) as left:
            run(["approve", "--store", str(store.folder), *words], "oneslice hospital")
        said = capsys.readouterr()
        assert (left.value.code or 0) == code, said
        return said.out + said.err

    return type_in


def test_approving_from_the_first_look_to_the_withdrawal(
    desk: Desk,
    node: Node,
    make_plan: MakePlan,
    tmp_path: Path,
    bundles: tuple[bytes, bytes],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    plan_file, plan = tmp_path / "plan.toml", make_plan()
    plan_file.write_text(tomli_w.dumps(plan.model_dump(mode="json", exclude_none=True)))
    node.refused.mkdir()
    (node.refused / f"{bundle_hash(bundles[1])}.fab").write_bytes(bundles[1])
    told = desk("--plan", str(plan_file), "--yes", "--by", "ines")
    assert "it is what this hospital's own installation builds" in told
    assert "IT IS NOT what the coordinator sent last" in told
    assert "segmenter: " in told
    assert "never    scans, masks" in told
    assert "approved by ines" in told
    own = node.bundle.read_bytes()
    assert is_bundle_approved(node.path, bundle_hash(own))
    assert not is_bundle_approved(node.path, bundle_hash(bundles[1]))
    assert is_plan_approved(node.path, plan)

    came = node.refused / f"{bundle_hash(bundles[1])}.fab"
    monkeypatch.setattr("sys.stdin", io.StringIO("n\n"))
    told = desk("--bundle", str(came), "--diff", code=1)
    assert "nothing was approved" in told
    assert "IS NOT what this hospital's own installation builds" in told
    assert "+SENDS_MORE = True" in told
    assert "added    server/spy.py" in told
    assert "LINES MORE" not in told
    assert not is_bundle_approved(node.path, bundle_hash(bundles[1]))

    shown = json.loads(desk("--format", "json"))
    assert (shown["bundle"]["approved"], shown["approved_by"]) == (True, None)
    assert desk("--withdraw", plan.federation).strip() == plan.federation
    assert not is_plan_approved(node.path, plan)
    assert "nothing called" in desk("--withdraw", plan.federation, code=2)
    assert "cannot be read" in desk("--bundle", str(tmp_path / "none.fab"), code=2)


def test_of_several_plans_that_wait_one_is_chosen(
    desk: Desk, node: Node, make_plan: MakePlan
) -> None:
    plans = [make_plan(seed=seed) for seed in (0, 1)]
    for plan in plans:
        with pytest.raises(NotApprovedError):
            check_plan_approved(node.path, plan)
    told = desk("--yes", code=2)
    assert "2 plans wait for an approval" in told
    options = [line.split() for line in told.splitlines() if line.startswith("  --plan ")]
    assert {path for _, path in options} == {str(asked_file(node.path, one)) for one in plans}
    assert read_approvals(node.path) == Approvals()
    desk(*options[0], "--yes")
    (approved,) = read_approvals(node.path).plans
    assert str(asked_file(node.path, approved.plan)) == options[0][1]
    desk("--yes")
    assert len(read_approvals(node.path).plans) == 2


# What came from outside, on a terminal ----------------------------------------------------------


def test_nothing_from_outside_steers_the_terminal(
    store: Store, node: Node, make_plan: MakePlan, capsys: pytest.CaptureFixture[str]
) -> None:
    changes = (FileChange("a\x1b[2J\u202e.py", "added", "+x\x1b[1A\x9b2K\n+\u202ey\x7f"),)
    proposal = propose(store, node, b"", None, [make_plan()])
    plan = replace(
        proposal.plans[0],
        compared_with="before",
        changes=(KeyChange("strategy.options.\x1b[8m", "\x9b", "\u2066"),),
    )
    bundle = BundleProposal("0" * 64, False, False, "1\x1b]0;", "2" * 64, changes)
    print_proposal(replace(proposal, bundle=bundle, plans=(plan,)), diff=False)
    told = capsys.readouterr().out
    assert all(letter.isprintable() for letter in told.replace("\n", ""))
    assert r"+x\x1b[1A\x9b2K" in told.splitlines()
    assert r"\x9b -> \u2066" in told


@pytest.mark.parametrize("values", [{"snomed": "1\x1b[2J"}, {"name": "a\x7f"}, {"name": "\u202ea"}])
def test_a_plan_has_no_letters_that_cannot_be_seen(
    make_plan: MakePlan, values: dict[str, str]
) -> None:
    labels = [one.model_dump() for one in make_plan().labels]
    with pytest.raises(ValidationError, match="should match pattern"):
        make_plan(labels=[{**labels[0], **values}, *labels[1:]])


def test_the_difference_is_shown_and_its_length_is_bounded(
    store: Store, node: Node, capsys: pytest.CaptureFixture[str]
) -> None:
    text = "\n".join(f"+{number}" for number in range(MOST_LINES + 7))
    proposal = propose(store, node, b"", None, [])
    changes = (FileChange("a.py", "changed", text), FileChange("b.py", "changed", "+last"))
    bundle = BundleProposal("0" * 64, False, False, None, "2" * 64, changes)
    print_proposal(replace(proposal, bundle=bundle), diff=False)
    told = capsys.readouterr().out.splitlines()
    assert [line for line in told if line.startswith("+")] == text.split("\n")[:MOST_LINES]
    assert "    changed  b.py" in told, "all files are named"
    assert "  AND 8 LINES MORE: --diff shows all" in told
    print_proposal(replace(proposal, bundle=bundle), diff=True)
    told = capsys.readouterr().out.splitlines()
    assert "+last" in told
    assert not [line for line in told if "LINES MORE" in line]


def test_the_first_bundle_is_set_beside_the_installations_own(
    store: Store, node: Node, bundles: tuple[bytes, bytes]
) -> None:
    own, other = bundles
    first = propose(store, node, own, own, []).bundle
    assert first is not None
    assert first.compared_with is None
    came = propose(store, node, own, other, []).bundle
    assert came is not None
    assert (came.compared_with, len(came.changes)) == (bundle_hash(own), 3)


def test_status_and_doctor_print_names_that_code_from_outside_wrote(
    node: Node, make_plan: MakePlan, capsys: pytest.CaptureFixture[str]
) -> None:
    node.refused.mkdir()
    (node.refused / "1\x1b[2J.fab").touch()
    print_node_status(read_node_status(node))
    print_check(check_asked(node))
    told = capsys.readouterr().out
    assert told.count(r"1\x1b[2J") == 2
    assert "\x1b" not in told
    for seed in range(MOST_ASKED):
        with pytest.raises(NotApprovedError):
            check_plan_approved(node.path, make_plan(seed=seed))
    print_node_status(read_node_status(node))
    assert "20 plans wait, and no more are kept" in capsys.readouterr().out
