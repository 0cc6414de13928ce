"""The hospital's attack on itself: on its own scans, with nothing changed and nothing sent."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import tomli_w
from hospital_rounds import ask

from client.cli import run
from client.desk_text import print_probe
from client.egress import last_sent
from client.leak_probe import Leak, Probe, probe_leaks
from client.local_round import Hospital
from client.store.audit import verify_audit
from client.store.label_maps import find_label_map
from client.store.scans import list_scans
from common.errors import StoreError
from common.plan import FederationPlan

MakePlan = Callable[..., FederationPlan]
MakeHospital = Callable[..., Hospital]
Paint = Callable[..., None]
FEW = 3  # iterations: what is found is tested where it is found


@pytest.fixture
def hospital(make_hospital: MakeHospital, make_plan: MakePlan, paint: Paint) -> Hospital:
    """The first task painted."""
    made = make_hospital()
    paint(made, make_plan(), "first")
    return made


def test_three_attacks_on_fresh_weights(hospital: Hospital, make_plan: MakePlan) -> None:
    probe = probe_leaks(hospital, make_plan(), FEW)
    assert (probe.round, probe.patch_voxels) == (0, (16, 16, 8))
    # One patch, a batch of two, and two steps of two.
    assert [leak.num_patches for leak in probe.leaks] == [1, 2, 4]
    assert all(-1 <= leak.match <= 1 and 0 < leak.by_chance <= 1 for leak in probe.leaks)
    assert not probe.too_much, "without a limit there is no verdict"
    assert probe_leaks(hospital, make_plan(), FEW) == probe, "the same again"


def test_nothing_leaves_and_nothing_stays(hospital: Hospital, make_plan: MakePlan) -> None:
    before, files = verify_audit(hospital.store), sorted(hospital.store.folder.iterdir())
    plan = make_plan()
    probe_leaks(hospital, plan, FEW)
    assert verify_audit(hospital.store) == before
    assert last_sent(hospital.store) is None
    assert sorted(hospital.store.folder.iterdir()) == files
    scans = list_scans(hospital.store, "first")
    assert all(
        find_label_map(hospital.store, one.scan_id, plan.federation) is None for one in scans
    )


def test_the_current_model_is_attacked_once_there_is_one(
    hospital: Hospital, make_plan: MakePlan
) -> None:
    fresh = probe_leaks(hospital, make_plan(), FEW)
    ask(hospital, make_plan(), 1)
    probe = probe_leaks(hospital, make_plan(), FEW)
    assert probe.round == 1
    assert probe.leaks != fresh.leaks


def test_one_step_on_one_patch_tells_more_than_chance(
    hospital: Hospital, make_plan: MakePlan
) -> None:
    # Noise cannot be guessed from other patches, so all that matches was read from the gradient.
    found = probe_leaks(hospital, make_plan(training={"batch_size": 1}), 150).leaks[0]
    assert found.match > found.by_chance


def test_without_an_annotated_scan_there_is_nothing_to_attack(
    make_hospital: MakeHospital, make_plan: MakePlan
) -> None:
    with pytest.raises(StoreError, match=r"no annotated scan .* paint one first"):
        probe_leaks(make_hospital(), make_plan(), FEW)


def test_patches_are_small_but_the_network_still_fits(
    hospital: Hospital, make_plan: MakePlan
) -> None:
    plan = make_plan(
        segmenter={"channels": [2, 4, 4], "strides": [4, 4]},
        training={"patch_size": [48, 48, 32]},
    )
    assert probe_leaks(hospital, plan, 1).patch_voxels == (32, 32, 32)


def test_the_verdict_is_on_what_leaves(capsys: pytest.CaptureFixture[str]) -> None:
    step, update = Leak("one step on one patch", 1, 0.9, 0.2), Leak("update", 8, 0.3, 0.4)
    for limit, too_much, words in (
        (None, False, "no verdict"),
        (0.5, False, "within the policy: 0.30, most_leak is 0.5"),
        (0.2, True, "TOO MUCH: 0.30, most_leak is 0.2"),
    ):
        probe = Probe(2, (16, 16, 16), (step, update), limit)
        assert probe.too_much == too_much
        print_probe(probe)
        text = capsys.readouterr().out
        assert words in text
        assert "the model of round 2, patches of 16 x 16 x 16 voxels" in text
        assert "showed this attack no more of a patch" in text


def test_the_command(
    hospital: Hospital,
    make_plan: MakePlan,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("client.leak_probe.ITERATIONS", FEW)
    plan = tmp_path / "plan.toml"
    plan.write_text(tomli_w.dumps(make_plan().model_dump(mode="json", exclude_none=True)))

    def type_in(*words: str) -> tuple[int, str]:
        with pytest.raises(SystemExit) as left:
            run(["egress", "--store", str(hospital.store.folder), *words], "oneslice hospital")
        said = capsys.readouterr()
        return int(left.value.code or 0), said.out + said.err

    code, text = type_in("--probe")
    assert (code, "name it with --plan" in text) == (2, True)
    code, text = type_in("--probe", "--plan", str(plan))
    assert (code, "the update of a round" in text) == (0, True)
    (hospital.store.folder / "policy.toml").write_text("most_leak = 0.0", encoding="utf-8")
    code, text = type_in("--probe", "--plan", str(plan), "--format", "json")
    found = json.loads(text)
    assert found["too_much"] == (found["leaks"][2]["match"] > 0)
    assert code == int(found["too_much"])
