"""What hospitals that spoil the model really send and paint."""

from pathlib import Path

import numpy as np
import pytest
from pydantic import ValidationError
from small_scenario import small_scenario

from client.store.annotations import latest_annotations
from client.store.scans import list_scans
from common.updates import (
    Arrays,
    LocalUpdate,
    Note,
    RoundRequest,
    decode_update,
    encode_request,
    encode_update,
)
from common.wire import to_wire
from server.strategy import LARGEST_NUM_EXAMPLES
from simulations.faults import misbehave
from simulations.local_grid import NoAnswer
from simulations.progress import no_progress
from simulations.run import prepare
from simulations.scenario import Fault, Scenario

RECEIVED: Arrays = {"segmenter/a": np.array([1.0, 2.0], np.float32)}
TRAINED: Arrays = {"segmenter/a": np.array([1.5, 1.0], np.float32)}


def _reply(fault: Fault, number: int = 1, action: str = "train") -> LocalUpdate:
    plan = small_scenario().plan
    request = RoundRequest.model_validate({"action": action, "plan": plan, "round": number})
    note = Note(hospital="hospital-a", outcome="trained", round=number, num_examples=4)
    reply = encode_update(LocalUpdate(TRAINED, note))
    return decode_update(misbehave([fault], encode_request(request, RECEIVED), reply))


@pytest.mark.parametrize(
    ("factor", "expected"), [(-1.0, [0.5, 3.0]), (10.0, [6.0, -8.0]), (-10.0, [-4.0, 12.0])]
)
def test_a_scaled_update_goes_on_from_what_was_received(
    factor: float, expected: list[float]
) -> None:
    update = _reply(Fault(site="hospital-a", kind="scaled", factor=factor))
    assert update.arrays["segmenter/a"].tolist() == expected
    assert update.arrays["segmenter/a"].dtype == np.float32
    assert update.note.num_examples == 4


def test_a_scaled_difference_is_the_difference_scaled() -> None:
    plan = small_scenario(wire="float16-deltas").plan
    request = encode_request(RoundRequest(action="train", plan=plan, round=1), RECEIVED)
    note = Note(hospital="hospital-a", outcome="trained", round=1, num_examples=4)
    reply = encode_update(LocalUpdate(to_wire(TRAINED, RECEIVED, plan.wire), note))
    fault = Fault(site="hospital-a", kind="scaled", factor=-10.0)
    sent = decode_update(misbehave([fault], request, reply)).arrays["segmenter/a"]
    assert (sent.tolist(), sent.dtype) == ([-5.0, 10.0], np.float16)


def test_a_claim_is_as_large_as_the_server_believes() -> None:
    update = _reply(Fault(site="hospital-a", kind="claims"))
    assert update.note.num_examples == LARGEST_NUM_EXAMPLES
    assert update.arrays["segmenter/a"].tolist() == TRAINED["segmenter/a"].tolist()


def test_other_rounds_and_other_questions_are_answered_honestly() -> None:
    fault = Fault(site="hospital-a", kind="scaled", rounds=(2,))
    assert _reply(fault, 1).arrays["segmenter/a"].tolist() == [1.5, 1.0]
    assert _reply(fault, 2).arrays["segmenter/a"].tolist() == [0.5, 3.0]
    assert _reply(fault, 2, "score").arrays["segmenter/a"].tolist() == [1.5, 1.0]


def test_accidents() -> None:
    assert np.isnan(_reply(Fault(site="hospital-a", kind="nan")).arrays["segmenter/a"]).all()
    assert _reply(Fault(site="hospital-a", kind="shape")).arrays["segmenter/a"].shape == (1, 2)
    with pytest.raises(NoAnswer):
        _reply(Fault(site="hospital-a", kind="silent"))
    with pytest.raises(RuntimeError, match="a simulated failure"):
        _reply(Fault(site="hospital-a", kind="raises"))


def test_labels_cannot_be_swapped_in_some_rounds_only() -> None:
    with pytest.raises(ValidationError, match="labels_swapped holds in all rounds"):
        Fault(site="hospital-a", kind="labels_swapped", rounds=(1,))


def test_who_swaps_labels_paints_every_class_as_the_other(tmp_path: Path) -> None:
    honest = small_scenario()
    faults = [{"site": "hospital-a", "kind": "labels_swapped"}]
    swapped = Scenario.model_validate({**honest.model_dump(), "faults": faults})
    here = prepare(honest, None, tmp_path / "here", no_progress).stores
    there = prepare(swapped, None, tmp_path / "there", no_progress).stores
    seen = set()
    for site in honest.sites:
        for scan in list_scans(here[site]):
            (one,) = latest_annotations(here[site], scan.scan_id)
            (other,) = latest_annotations(there[site], scan.scan_id)
            expected = np.array([0, 2, 1])[one.mask] if site == "hospital-a" else one.mask
            np.testing.assert_array_equal(other.mask, expected)
            seen |= set(np.unique(other.mask).tolist())
    assert seen == {0, 1, 2}


def test_who_swaps_labels_swaps_those_that_are_painted(tmp_path: Path) -> None:
    values = small_scenario().model_dump()
    values["deals"][0]["classes"] = ("body",)
    values["faults"] = [{"site": "hospital-a", "kind": "labels_swapped"}]
    stores = prepare(Scenario.model_validate(values), None, tmp_path, no_progress).stores
    first = values["deals"][0]["task"]
    for store in stores.values():
        painted = [
            (scan.task == first, latest_annotations(store, scan.scan_id)[0].looked_for)
            for scan in list_scans(store)
        ]
        assert set(painted) == {(True, (2,)), (False, (1, 2))}
