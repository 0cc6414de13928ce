"""The wire's bytes: there and back, and everything that is refused."""

import json
import pickle
import struct
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from pydantic import ValidationError
from safetensors.numpy import save

from common.errors import BadReplyError, SettingsError, VersionError
from common.plan import FederationPlan
from common.updates import (
    PROTOCOL,
    Arrays,
    LocalUpdate,
    Note,
    RoundRequest,
    TaskScore,
    check_arrays,
    check_request,
    decode_request,
    decode_update,
    encode_request,
    encode_update,
    trained_in,
)

DTYPES = st.sampled_from(["f2", "f4", "f8", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "?"])
SHAPES = hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=3)
ARRAYS = st.dictionaries(
    st.sampled_from(["segmenter/a", "segmenter/b.weight", "student/a", "ünïcode"]),
    hnp.arrays(DTYPES.map(np.dtype), SHAPES),
    max_size=3,
)
NOTE = Note(
    hospital="north",
    outcome="trained",
    round=3,
    num_examples=7,
    scans_per_task={"first": 7},
    scores=(TaskScore(task="first", dice={"left lobe": 0.5}, cases=2, missed=1),),
    loss=0.1 + 0.2,
    seconds={"train": 1.5},
)


def _assert_equal(left: Arrays, right: Arrays) -> None:
    assert left.keys() == right.keys()
    for name, array in left.items():
        assert (array.shape, array.dtype) == (right[name].shape, right[name].dtype)
        assert array.tobytes() == right[name].tobytes(), name


@given(arrays=ARRAYS)
def test_an_update_comes_back_bit_for_bit(arrays: Arrays) -> None:
    came = decode_update(encode_update(LocalUpdate(arrays, NOTE)))
    assert came.note == NOTE
    _assert_equal(came.arrays, arrays)


def test_a_request_comes_back_bit_for_bit(plan: FederationPlan) -> None:
    request = RoundRequest(action="train", plan=plan, round=2, proximal_mu=0.01)
    arrays = {"segmenter/a": np.array([1.5, -0.0, np.pi], np.float32)}
    came, came_arrays = decode_request(encode_request(request, arrays))
    assert came == request
    assert came.plan.federation == plan.federation
    _assert_equal(came_arrays, arrays)


def test_arrays_that_are_not_contiguous_come_back_with_the_right_values() -> None:
    table = np.arange(12, dtype=np.float32).reshape(3, 4)
    arrays = {"t": table.T, "s": table[:, ::2], "f": np.asfortranarray(table)}
    came = decode_update(encode_update(LocalUpdate(arrays, NOTE))).arrays
    for name, array in arrays.items():
        np.testing.assert_array_equal(came[name], array)


@pytest.mark.parametrize(("action", "number"), [("train", 0), ("train", 7), ("score", 7)])
def test_a_round_that_the_plan_does_not_have_is_refused(
    plan: FederationPlan, action: str, number: int
) -> None:
    assert plan.num_rounds == 6
    with pytest.raises(SettingsError, match=f"round {number}: the plan has rounds . to 6"):
        check_request({"action": action, "plan": plan.model_dump(), "round": number})


def test_more_pull_towards_the_mean_than_the_plan_says_is_refused(plan: FederationPlan) -> None:
    most = plan.strategy.proximal_mu
    asked = {"action": "train", "plan": plan.model_dump(), "round": 1, "proximal_mu": most}
    assert check_request(asked).proximal_mu == most
    with pytest.raises(SettingsError, match="more than the plan's"):
        check_request({**asked, "proximal_mu": 2 * most})


def test_another_protocol_is_refused_with_both_versions(plan: FederationPlan) -> None:
    other = PROTOCOL + 1
    request = RoundRequest(action="hello", plan=plan, round=0, protocol=other)
    said = rf"\(protocol {PROTOCOL}\), the coordinator .* \(protocol {other}\)"
    with pytest.raises(VersionError, match=said):
        decode_request(encode_request(request, {}))
    note = NOTE.model_copy(update={"protocol": other})
    with pytest.raises(BadReplyError, match=f"protocol {other}, this coordinator {PROTOCOL}"):
        decode_update(encode_update(LocalUpdate({}, note)))


def test_a_later_protocol_is_named_before_its_new_keys(plan: FederationPlan) -> None:
    values = {"protocol": 9, "plan": {"unheard": 1}, "unheard": 2}
    with pytest.raises(VersionError, match=r"the coordinator unknown \(protocol 9\)"):
        decode_request(_packed(values))
    with pytest.raises(BadReplyError, match="speaks protocol 9"):
        decode_update(_packed(values))


def _packed(values: object) -> bytes:
    return save({"a": np.zeros(2, np.float32)}, metadata={"json": json.dumps(values)})


def _with_header(header: bytes, rest: bytes = b"") -> bytes:
    return struct.pack("<Q", len(header)) + header + rest


WHOLE = encode_update(LocalUpdate({"a": np.ones((3, 4), np.float32)}, NOTE))
TENSOR = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}
GARBAGE = {
    "empty": b"",
    "short length": b"\x01\x02",
    "only a length": struct.pack("<Q", 40),
    "huge length": struct.pack("<Q", 2**63) + b"{}",
    "length beyond the end": struct.pack("<Q", 1000) + b"{}",
    "header is a list": _with_header(b"[1, 2]"),
    "header is a number": _with_header(b"7"),
    "header is no JSON": _with_header(b"{nothing"),
    "header is no UTF-8": _with_header(b"\xff\xff"),
    "header nested too deep": _with_header(b'{"a":' * 100_000 + b"1" + b"}" * 100_000),
    "no metadata": _with_header(json.dumps({"a": TENSOR}).encode(), bytes(8)),
    "metadata is a number": _with_header(b'{"__metadata__": 7}'),
    "metadata without our text": _with_header(b'{"__metadata__": {"other": "x"}}'),
    "our text is a number": _with_header(b'{"__metadata__": {"json": 7}}'),
    "unknown dtype": _with_header(
        json.dumps({"__metadata__": {"json": "{}"}, "a": {**TENSOR, "dtype": "F7"}}).encode(),
        bytes(8),
    ),
    "a dtype that NumPy lacks": _with_header(
        json.dumps(
            {"__metadata__": {"json": "{}"}, "a": {**TENSOR, "dtype": "BF16", "shape": [4]}}
        ).encode(),
        bytes(8),
    ),
    "tensor beyond the end": _with_header(
        json.dumps({"__metadata__": {"json": "{}"}, "a": TENSOR}).encode(), bytes(4)
    ),
    "pickled": pickle.dumps({"a": 1}),
    "text is no JSON": save({}, metadata={"json": "{"}),
    "text is a list": _packed([1]),
    "text is null": _packed(None),
    "text is nested too deep": save({}, metadata={"json": "[" * 100_000}),
    "text without a protocol": _packed({"hospital": "north"}),
    "text with too little": _packed({"protocol": PROTOCOL}),
    **{f"cut at {length}": WHOLE[:length] for length in (7, 8, 30, len(WHOLE) - 1)},
}


@pytest.mark.parametrize("data", GARBAGE.values(), ids=GARBAGE.keys())
def test_garbage_raises_our_errors(data: bytes) -> None:
    with pytest.raises(BadReplyError, match=r"expected a (reply|note)|speaks protocol None"):
        decode_update(data)
    with pytest.raises(SettingsError, match=r"expected a request|the coordinator|request: "):
        decode_request(data)


@given(data=st.binary(max_size=200))
def test_random_bytes_raise_our_errors(data: bytes) -> None:
    with pytest.raises(BadReplyError, match="expected"):
        decode_update(data)
    with pytest.raises(SettingsError, match="expected"):
        decode_request(data)


@given(header=st.binary(max_size=60), rest=st.binary(max_size=20))
def test_random_headers_raise_our_errors(header: bytes, rest: bytes) -> None:
    with pytest.raises(BadReplyError, match="expected"):
        decode_update(_with_header(header, rest))


@given(place=st.integers(0, len(WHOLE) - 1), value=st.integers(0, 255))
def test_one_changed_byte_gives_our_error_or_an_update(place: int, value: int) -> None:
    data = WHOLE[:place] + bytes([value]) + WHOLE[place + 1 :]
    try:
        came = decode_update(data)
    except BadReplyError:
        assert data != WHOLE
    else:
        assert isinstance(came.note, Note)


@given(
    text=st.recursive(st.none() | st.floats() | st.text(), st.lists, max_leaves=5).map(json.dumps)
)
def test_any_json_that_is_no_note_raises_our_error(text: str) -> None:
    with pytest.raises(BadReplyError, match="speaks protocol None"):
        decode_update(save({}, metadata={"json": text}))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"patient": "Smith"}, r"patient\n.*Extra inputs"),
        ({"hospital": "St. Mary's"}, r"hospital\n.*pattern"),
        ({"outcome": "bored"}, r"outcome\n.*'trained'"),
        ({"reason": "x" * 201}, r"reason\n.*at most 200"),
        ({"reason": "gone\x1b[2K"}, r"reason\n.*match pattern"),
        ({"reason": "\u202egone"}, r"reason\n.*match pattern"),
        ({"num_examples": -1}, r"num_examples\n.*greater than or equal to 0"),
        ({"num_examples": 10_000_001}, r"num_examples\n.*less than or equal to 10000000"),
        ({"round": -1}, r"round\n.*or equal to 0"),
        ({"used": -1}, r"used\n.*or equal to 0"),
        ({"scans_per_task": {"first": -1}}, r"scans_per_task\.first\n.*or equal to 0"),
        ({"voxels_per_task": {"a/b": 1}}, r"voxels_per_task.*\n.*pattern"),
        ({"loss": float("nan")}, r"loss\n.*finite"),
        ({"student_loss": float("inf")}, r"student_loss\n.*finite"),
        ({"seconds": {"train": float("nan")}}, r"seconds\.train\n.*"),
        ({"seconds": {"train": -1.0}}, r"seconds\.train\n.*or equal to 0"),
        ({"seconds": {"lunch": 1.0}}, r"seconds\.lunch.*\n.*'train'"),
        (
            {"scores": [{"task": "t", "dice": {"organ": 1.5}, "cases": 1, "missed": 0}]},
            r"equal to 1",
        ),
        ({"scores": [{"task": "t", "dice": {}, "cases": 1, "missed": -1}]}, r"or equal to 0"),
    ],
)
def test_a_note_refuses_what_may_not_come(changes: dict[str, Any], message: str) -> None:
    values = {**json.loads(NOTE.model_dump_json()), **changes}
    with pytest.raises(ValidationError, match=message):
        Note.model_validate(values)
    with pytest.raises(BadReplyError, match=rf"(?s)agreed numbers.*{message}"):
        decode_update(_packed(values))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"a": None}, r"missing \['a'\], not asked for \[\]"),
        ({"c": np.zeros(1)}, r"missing \[\], not asked for \['c'\]"),
        (
            {"a": np.zeros((3, 2), np.float32)},
            r"a: expected float32 \(2, 3\), got float32 \(3, 2\)",
        ),
        (
            {"a": np.zeros((2, 3), np.float64)},
            r"a: expected float32 \(2, 3\), got float64 \(2, 3\)",
        ),
        ({"b": np.zeros((1,), np.float32)}, r"b: expected float32 \(\), got float32 \(1,\)"),
        ({"a": np.full((2, 3), np.nan, np.float32)}, r"a: expected finite numbers"),
        ({"b": np.array(np.inf, np.float32)}, r"b: expected finite numbers"),
        ({"b": np.array(-np.inf, np.float32)}, r"b: expected finite numbers"),
    ],
)
def test_check_arrays_names_the_tensor_and_what_came(
    changes: dict[str, np.ndarray | None], message: str
) -> None:
    expected = {"a": np.zeros((2, 3), np.float32), "b": np.array(0, np.float32)}
    changed = {**expected, **changes}
    came = {name: array for name, array in changed.items() if array is not None}
    with pytest.raises(BadReplyError, match=message):
        check_arrays(came, expected)


def test_check_arrays_lets_the_same_names_pass_in_any_order() -> None:
    expected = {"a": np.zeros((2, 3), np.float32), "b": np.array(0, np.float32)}
    check_arrays(dict(reversed(expected.items())), expected)


def test_a_round_trains_the_correspondence_network_or_all_others(plan: FederationPlan) -> None:
    names = ("segmenter/a", "correspondence/b", "student/correspondence/c", "correspondences/d")
    arrays = {name: np.zeros(1) for name in names}
    learning = plan.correspondence.model_copy(update={"rounds": 2})
    later = plan.model_copy(update={"correspondence": learning})
    others = [names[0], *names[2:]]
    found = [list(trained_in(later, number, arrays)) for number in (1, 2, 3)]
    assert found == [["correspondence/b"], ["correspondence/b"], others]
    assert list(trained_in(plan, 1, arrays)) == others
