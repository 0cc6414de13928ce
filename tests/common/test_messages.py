"""Requests and replies as Flower records: nothing is lost, and nothing shared."""

import pickle

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, RecordDict

from common.errors import BadReplyError, SettingsError, VersionError
from common.messages import (
    PAYLOAD,
    arrays_to_record,
    bytes_to_content,
    content_to_request_bytes,
    content_to_update,
    record_to_arrays,
    request_to_content,
)
from common.plan import FederationPlan
from common.updates import (
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
    came = content_to_update(bytes_to_content(data))
    assert came.note == UPDATE_NOTE
    assert encode_update(came) == data


def test_a_reply_without_a_model_comes_back() -> None:
    note = Note(hospital="north", outcome="abstained", round=2)
    came = content_to_update(bytes_to_content(encode_update(LocalUpdate({}, note))))
    assert came == LocalUpdate({}, note)


def test_a_request_comes_through_a_message(plan: FederationPlan) -> None:
    request = RoundRequest(action="train", plan=plan, round=4, proximal_mu=0.0)
    content = request_to_content(request, _arrays())
    came, arrays = decode_request(content_to_request_bytes(content))
    assert came == request
    assert came.plan.federation == plan.federation
    assert arrays.keys() == _arrays().keys()
    for name, array in _arrays().items():
        np.testing.assert_array_equal(arrays[name], array)


def test_all_tensors_are_one_object_on_the_wire(plan: FederationPlan) -> None:
    # Flower asks for each tensor, and each piece of it, by itself.
    content = request_to_content(RoundRequest(action="train", plan=plan, round=1), _arrays())
    assert [len(record) for record in content.array_records.values()] == [1]
    assert not content.config_records
    assert not content.metric_records


def test_a_request_of_another_version_is_handed_on(plan: FederationPlan) -> None:
    # The ClientApp is the coordinator's code; the hospital's own is what refuses.
    other = RoundRequest(action="hello", plan=plan, round=0, software="9.0.0")
    data = content_to_request_bytes(request_to_content(other, {}))
    with pytest.raises(VersionError, match=r"the coordinator 9\.0\.0"):
        decode_request(data)


NPY_HEADER = b"\x93NUMPY\x01\x00"


def _content(array: Array | None = None) -> RecordDict:
    return RecordDict({PAYLOAD: ArrayRecord({PAYLOAD: array} if array is not None else {})})


def _array(data: bytes, stype: str = "numpy.ndarray") -> Array:
    return Array(dtype="uint8", shape=(2,), stype=stype, data=data)


def _npy(header: bytes) -> Array:
    return _array(NPY_HEADER + len(header).to_bytes(2, "little") + header)


BAD_CONTENTS = {
    "nothing": RecordDict(),
    "no array": _content(),
    "empty array": _content(_array(b"")),
    "array cut short": _content(_array(NPY_HEADER)),
    "array with an open bracket": _content(_npy(b"{'descr': (((")),
    "pickled array": _content(_array(pickle.dumps([1, 2]))),
    "array of another kind": _content(_array(b"", stype="torch")),
    "array of numbers": _content(Array(np.ones(3, np.float32))),
    "array of rows": _content(Array(np.ones((2, 3), np.uint8))),
    "array larger than any memory": _content(
        _npy(b"{'descr': '|u1', 'fortran_order': False, 'shape': (70368744177664,)}")
    ),
}


@pytest.mark.parametrize("content", BAD_CONTENTS.values(), ids=BAD_CONTENTS.keys())
def test_what_holds_no_bytes_raises_our_error(content: RecordDict) -> None:
    with pytest.raises(BadReplyError, match="expected a reply's bytes, got"):
        content_to_update(content)
    with pytest.raises(SettingsError, match="expected a request, got"):
        content_to_request_bytes(content)


@pytest.mark.parametrize("data", [b"", b"{}", b"\xff" * 64])
def test_bytes_that_are_no_reply_raise_our_error(data: bytes) -> None:
    with pytest.raises(BadReplyError, match="expected a reply in safetensors"):
        content_to_update(bytes_to_content(data))
