"""Requests and replies as Flower records: nothing is lost, and nothing shared."""

import json
import pickle

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, RecordDict

from common.errors import BadReplyError, SettingsError, VersionError
from common.messages import (
    ARRAYS,
    CONFIG,
    METRICS,
    NOTE,
    WEIGHT,
    arrays_to_record,
    content_to_request_bytes,
    content_to_update,
    record_to_arrays,
    reply_bytes_to_content,
    request_to_config,
)
from common.plan import FederationPlan
from common.updates import (
    PROTOCOL,
    Arrays,
    LocalUpdate,
    Note,
    RoundRequest,
    decode_request,
    encode_update,
)

UPDATE_NOTE = Note(hospital="north", outcome="trained", round=2, num_examples=5, loss=0.1)


def _arrays() -> Arrays:
    return {
        "student/z": np.arange(6, dtype=np.float32).reshape(2, 3),
        "segmenter/a": np.array(2.5, np.float32),
        "segmenter/e": np.zeros((0, 2), np.float64),
    }


def _assert_equal(left: Arrays, right: Arrays) -> None:
    assert list(left) == list(right), "same names, same order"
    for name, array in left.items():
        assert (array.shape, array.dtype) == (right[name].shape, right[name].dtype)
        np.testing.assert_array_equal(array, right[name])


def test_arrays_come_back_from_a_record() -> None:
    _assert_equal(record_to_arrays(arrays_to_record(_arrays())), _arrays())


def test_arrays_of_a_record_are_copies() -> None:
    record = arrays_to_record(_arrays())
    record_to_arrays(record)["student/z"][:] = 99
    _assert_equal(record_to_arrays(record), _arrays())


def test_a_reply_comes_back_from_a_message() -> None:
    data = encode_update(LocalUpdate(_arrays(), UPDATE_NOTE))
    content = reply_bytes_to_content(data)
    assert dict(content[METRICS]) == {WEIGHT: 5}, "what Flower's strategies weigh by"
    came = content_to_update(content)
    assert came.note == UPDATE_NOTE
    assert encode_update(came) == data


def test_a_reply_without_a_model_comes_back() -> None:
    note = Note(hospital="north", outcome="abstained", round=2)
    came = content_to_update(reply_bytes_to_content(encode_update(LocalUpdate({}, note))))
    assert came == LocalUpdate({}, note)


def test_a_request_comes_through_a_message(plan: FederationPlan) -> None:
    request = RoundRequest(action="train", plan=plan, round=4)
    content = RecordDict({CONFIG: request_to_config(request), ARRAYS: arrays_to_record(_arrays())})
    came, arrays = decode_request(content_to_request_bytes(content))
    assert came == request
    assert came.plan.federation == plan.federation
    assert arrays.keys() == _arrays().keys()
    for name, array in _arrays().items():
        np.testing.assert_array_equal(arrays[name], array)


def test_a_greeting_needs_no_tensors(plan: FederationPlan) -> None:
    request = RoundRequest(action="hello", plan=plan, round=0)
    content = RecordDict({CONFIG: request_to_config(request)})
    assert decode_request(content_to_request_bytes(content)) == (request, {})


def test_the_key_of_flowers_fedprox_becomes_part_of_the_request(plan: FederationPlan) -> None:
    config = request_to_config(RoundRequest(action="train", plan=plan, round=1))
    config["proximal-mu"] = 0.0078125
    config["server-round"] = 1
    came, _ = decode_request(content_to_request_bytes(RecordDict({CONFIG: config})))
    assert came.proximal_mu == 0.0078125
    assert came == RoundRequest(action="train", plan=plan, round=1, proximal_mu=0.0078125)


def test_a_negative_proximal_mu_is_refused(plan: FederationPlan) -> None:
    config = request_to_config(RoundRequest(action="train", plan=plan, round=1))
    config["proximal-mu"] = -0.5
    with pytest.raises(SettingsError, match=r"proximal_mu = -0\.5: .*or equal to 0"):
        content_to_request_bytes(RecordDict({CONFIG: config}))


def test_a_request_of_another_version_is_handed_on(plan: FederationPlan) -> None:
    # The ClientApp is the coordinator's code; the hospital's own is what refuses.
    other = RoundRequest(action="hello", plan=plan, round=0, software="9.0.0")
    data = content_to_request_bytes(RecordDict({CONFIG: request_to_config(other)}))
    with pytest.raises(VersionError, match=r"the coordinator 9\.0\.0"):
        decode_request(data)


@pytest.mark.parametrize(
    "content",
    [
        RecordDict(),
        RecordDict({CONFIG: ConfigRecord({"other": "x"})}),
        RecordDict({CONFIG: ConfigRecord({"request": "{"})}),
    ],
    ids=["no config", "no request", "no JSON"],
)
def test_what_is_no_request_is_refused(content: RecordDict) -> None:
    with pytest.raises(SettingsError, match="expected a request, got"):
        content_to_request_bytes(content)


def _reply(note: str, array: Array | None = None) -> RecordDict:
    record = ArrayRecord({"a": array}) if array is not None else ArrayRecord()
    return RecordDict({NOTE: ConfigRecord({"note": note}), ARRAYS: record})


GOOD_NOTE = UPDATE_NOTE.model_dump_json()
NPY_HEADER = b"\x93NUMPY\x01\x00"


def _array(data: bytes) -> Array:
    return Array(dtype="float32", shape=(2,), stype="numpy.ndarray", data=data)


def _npy(header: bytes) -> Array:
    return _array(NPY_HEADER + len(header).to_bytes(2, "little") + header)


BAD_REPLIES = {
    "nothing": RecordDict(),
    "no note": RecordDict({ARRAYS: ArrayRecord()}),
    "no tensors": RecordDict({NOTE: ConfigRecord({"note": GOOD_NOTE})}),
    "empty tensor": _reply(GOOD_NOTE, _array(b"")),
    "tensor cut short": _reply(GOOD_NOTE, _array(NPY_HEADER)),
    "tensor with an open bracket": _reply(GOOD_NOTE, _npy(b"{'descr': (((")),
    "pickled tensor": _reply(GOOD_NOTE, _array(pickle.dumps([1, 2]))),
    "tensor of another kind": _reply(
        GOOD_NOTE, Array(dtype="float32", shape=(2,), stype="torch", data=b"")
    ),
    "tensor larger than any memory": _reply(
        GOOD_NOTE,
        _npy(b"{'descr': '<f4', 'fortran_order': False, 'shape': (17592186044416,)}"),
    ),
}


@pytest.mark.parametrize("content", BAD_REPLIES.values(), ids=BAD_REPLIES.keys())
def test_what_is_no_reply_raises_our_error(content: RecordDict) -> None:
    with pytest.raises(BadReplyError, match="expected tensors and a note, got"):
        content_to_update(content)


@pytest.mark.parametrize(
    "note", ["", "{", "[]", "null", "7", '{"hospital": "north"}', "[" * 99_999]
)
def test_a_note_that_is_none_raises_our_error(note: str) -> None:
    with pytest.raises(BadReplyError, match=r"expected a note in JSON|speaks protocol None"):
        content_to_update(_reply(note))


def test_a_note_with_a_key_of_its_own_raises_our_error() -> None:
    values = {**json.loads(GOOD_NOTE), "patient": "Smith"}
    with pytest.raises(BadReplyError, match=r"(?s)agreed numbers.*patient"):
        content_to_update(_reply(json.dumps(values)))


def test_a_note_of_another_protocol_is_refused_with_both_versions() -> None:
    values = {**json.loads(GOOD_NOTE), "protocol": PROTOCOL + 1, "unheard": 1}
    with pytest.raises(BadReplyError, match="hospital speaks protocol 4, this coordinator 3"):
        content_to_update(_reply(json.dumps(values)))
