"""The scores of a stream of tasks against counting by hand."""

import pytest

from common.continual import ContinualScores, continual_scores, mean_matrix

# Rows are stages, columns are tasks.
MATRIX = [
    [0.9, 0.1, 0.0],
    [0.95, 0.8, 0.2],
    [0.6, 0.85, 0.7],
]
UNTRAINED = [0.04, 0.03, 0.05]


def test_every_score_by_hand() -> None:
    scores = continual_scores(MATRIX, UNTRAINED)
    assert scores.acc == pytest.approx((0.6 + 0.85 + 0.7) / 3)
    assert scores.bwt == pytest.approx(((0.6 - 0.9) + (0.85 - 0.8)) / 2)
    # The best of task 1 was 0.95 after stage 2; task 2 was never better than its 0.8 before.
    assert scores.forgetting == pytest.approx(((0.95 - 0.6) + (0.8 - 0.85)) / 2)
    # Task 2 just before its own stage, task 3 just before its own, each beside fresh weights.
    assert scores.fwt == pytest.approx(((0.1 - 0.03) + (0.2 - 0.05)) / 2)
    assert scores.learning_accuracy == pytest.approx((0.9 + 0.8 + 0.7) / 3)


def test_what_the_first_task_scored_untrained_has_no_say() -> None:
    other = [0.99, *UNTRAINED[1:]]
    assert continual_scores(MATRIX, other) == continual_scores(MATRIX, UNTRAINED)


def test_without_the_fresh_weights_scores_there_is_no_forward_transfer() -> None:
    scores = continual_scores(MATRIX)
    assert scores.fwt is None
    assert scores.bwt is not None


def test_one_task_has_nothing_to_forget_and_nothing_to_come() -> None:
    expected = ContinualScores(acc=0.7, learning_accuracy=0.7)
    assert continual_scores([[0.7]], [0.1]) == expected


def test_holes_are_left_out() -> None:
    matrix = [
        [None, None, None],
        [None, 0.8, 0.3],
        [0.5, 0.6, None],
    ]
    scores = continual_scores(matrix, [0.0, 0.1, 0.1])
    assert scores.acc == pytest.approx((0.5 + 0.6) / 2)
    assert scores.bwt == pytest.approx(0.6 - 0.8)
    assert scores.forgetting == pytest.approx(0.8 - 0.6)
    assert scores.fwt == pytest.approx(0.3 - 0.1)
    assert scores.learning_accuracy == pytest.approx(0.8)
    assert continual_scores(matrix, [0.0, 0.1, None]).fwt is None


def test_a_hole_between_does_not_hide_the_best() -> None:
    scores = continual_scores([[0.9, None, None], [None, 0.5, None], [0.4, 0.5, 0.3]])
    assert scores.forgetting == pytest.approx(((0.9 - 0.4) + 0) / 2)


@pytest.mark.parametrize("size", [1, 2, 3])
def test_holes_everywhere_leave_all_undefined(size: int) -> None:
    assert continual_scores([[None] * size] * size, [0.1] * size) == ContinualScores()


def test_a_stream_that_stopped_early_counts_the_stages_it_had() -> None:
    # Two of three stages: only task 1 could be forgotten since it was learned.
    scores = continual_scores([[0.9, 0.1, 0.0], [0.7, 0.8, 0.3]], [0.0, 0.0, 0.1])
    assert scores.bwt == pytest.approx(0.7 - 0.9)
    assert scores.forgetting == pytest.approx(0.9 - 0.7)
    # What nobody has trained yet is not held against it.
    assert scores.acc == pytest.approx((0.7 + 0.8) / 2)
    # Task 3 has not begun, and is known a little already.
    assert scores.fwt == pytest.approx((0.1 + (0.3 - 0.1)) / 2)


def test_rows_may_end_at_their_own_stage() -> None:
    scores = continual_scores([[0.9], [0.7, 0.8]], [0.1, 0.1])
    assert (scores.acc, scores.bwt, scores.forgetting) == pytest.approx((0.75, -0.2, 0.2))
    assert scores.fwt is None
    assert scores.learning_accuracy == pytest.approx(0.85)


def test_no_stage_leaves_all_undefined() -> None:
    assert continual_scores([]) == ContinualScores()


def test_the_mean_of_matrices_is_over_those_that_have_a_number() -> None:
    one = [[0.5, None], [0.25, 1.0]]
    other = [[0.75, None], [None, 0.5]]
    assert mean_matrix([one, other]) == ((0.625, None), (0.25, 0.75))
    assert mean_matrix([one]) == tuple(map(tuple, one))
    assert mean_matrix([]) == ()
