"""Names first, then codes; numbers only without names; what is unknown is refused with a table."""

import pytest

from client.annotation.match_segments import match_segments, read_map
from client.annotation.painted_files import Segment
from common.errors import LabelDictionaryError, SettingsError
from common.plan import FederationPlan


@pytest.fixture
def plan() -> FederationPlan:
    network = {"channels": [4, 8], "strides": [2]}
    task = {"modality": "MR", "plane": "axial", "rounds": 1}
    labels = [
        {"name": "Anterior", "index": 1, "snomed": "111"},
        {"name": "Left lobe", "index": 2, "snomed": "222"},
        {"name": "Tumour", "index": 3},
    ]
    return FederationPlan.model_validate(
        {
            "name": "test",
            "labels": labels,
            "tasks": [
                {"name": "first", "classes": ["Anterior", "Left lobe"], **task},
                {"name": "second", "classes": ["Tumour"], **task},
            ],
            "segmenter": network,
            "student": network,
            "training": {"patch_size": [8, 8, 8]},
            "limits": {"hospitals": 1},
        }
    )


def _match(
    plan: FederationPlan, segments: list[Segment], *told: str, voxels: int = 9
) -> list[int | None]:
    found = match_segments(
        dict.fromkeys(segments, voxels), read_map(told, plan), plan, plan.tasks[0]
    )
    return [found.get(segment) for segment in segments]


def test_names_go_before_codes_and_numbers(plan: FederationPlan) -> None:
    segments = [
        Segment(2, 0, "anterior", "222"),
        Segment(1, 1, "left_LOBE"),
        Segment(7, 0, "X", "222"),
    ]
    assert _match(plan, segments[:2]) == [1, 2]
    assert _match(plan, segments) == [1, 2, 2]


def test_numbers_count_where_nothing_has_a_name(plan: FederationPlan) -> None:
    assert _match(plan, [Segment(1, 0), Segment(2, 0)]) == [1, 2]
    with pytest.raises(LabelDictionaryError, match="no label for"):
        _match(plan, [Segment(1, 0), Segment(2, 0, "Left lobe")])


def test_what_is_told_goes_first(plan: FederationPlan) -> None:
    segments = [Segment(1, 0, "Anterior"), Segment(9, 0, "Segment_9")]
    assert _match(plan, segments, "9=Left lobe") == [1, 2]
    assert _match(plan, segments, "segment 9=2", "Anterior=0") == [0, 2]
    assert _match(plan, segments, "1=2", "Segment_9=anterior") == [2, 1]


def test_other_tasks_labels_are_left_out(plan: FederationPlan) -> None:
    assert _match(plan, [Segment(1, 0), Segment(3, 0)]) == [1, 0]


def test_what_is_not_painted_needs_no_label(plan: FederationPlan) -> None:
    assert _match(plan, [Segment(8, 0, "something else")], voxels=0) == [None]


def test_the_unknown_is_refused_with_a_table(plan: FederationPlan) -> None:
    segments = [Segment(1, 0, "Anterior"), Segment(4, 0, "Spleen", "78961009")]
    wanted = (
        r"(?s)no label for:\n\s+value  name +SNOMED +voxels  plan\n"
        r"\s+1  Anterior +- +9  Anterior\n\s+4  Spleen +78961009 +9  -\nsay which is which with"
    )
    with pytest.raises(LabelDictionaryError, match=wanted):
        _match(plan, segments)


@pytest.mark.parametrize("entry", ["3", "=1", "3=", "3=99", "3=Spleen", "3=-1"])
def test_a_map_of_another_form_is_refused(plan: FederationPlan, entry: str) -> None:
    with pytest.raises(SettingsError, match=r"expected VALUE=LABEL .*1 Anterior, 2 Left lobe"):
        read_map([entry], plan)


def test_names_may_hold_an_equals_sign(plan: FederationPlan) -> None:
    assert read_map(["a=b=2"], plan) == {"a-b": 2}


def test_a_map_must_mean_one_thing_in_the_file(plan: FederationPlan) -> None:
    with pytest.raises(SettingsError, match=r"--map 5=\.\.\.: .* found 0 of that; there are:\n"):
        _match(plan, [Segment(1, 0)], "5=1")
    with pytest.raises(SettingsError, match="found 2 of that"):
        _match(plan, [Segment(1, 0, "a"), Segment(1, 1, "b")], "1=1")


def test_a_map_to_another_tasks_label_is_refused(plan: FederationPlan) -> None:
    with pytest.raises(SettingsError, match="'Tumour' is not painted for the task 'first'"):
        _match(plan, [Segment(1, 0)], "1=Tumour")
