"""Wilcoxon's test and Holm's correction against numbers worked out by hand."""

import pytest

from simulations.paired_test import holm, mean_differences, wilcoxon_p


def test_wilcoxon_counts_the_sums_of_ranks_that_are_as_small() -> None:
    # The negative rank is 4. Of the 16 subsets of the ranks 1 2 3 4, seven sum to at most 4:
    # {} {1} {2} {3} {1 2} {4} {1 3}.
    assert wilcoxon_p([0.1, 0.2, 0.3, -0.4]) == pytest.approx(2 * 7 / 16)
    # All of one sign: of 32 subsets only the empty one is as small.
    assert wilcoxon_p([1, 2, 3, 4, 5]) == pytest.approx(2 / 32)


def test_wilcoxon_is_the_same_from_both_sides_and_at_any_scale() -> None:
    differences = [0.3, -0.1, 0.7, 0.25, -0.05, 0.9]
    assert wilcoxon_p([-one for one in differences]) == wilcoxon_p(differences)
    assert wilcoxon_p([8 * one for one in differences]) == wilcoxon_p(differences)


def test_scans_without_a_difference_say_nothing() -> None:
    assert wilcoxon_p([0, 1, 2, 0, 3, 4, 5]) == wilcoxon_p([1, 2, 3, 4, 5])
    assert wilcoxon_p([0, 0, 0]) == 1
    assert wilcoxon_p([]) == 1


def test_a_few_ties_are_counted_out() -> None:
    # All of one sign: of 16 ways to sign four only two are as far out.
    assert wilcoxon_p([1, 1, 1, 1]) == pytest.approx(2 / 16)
    # Ranks 1.5 1.5 3 4; the negative sum is 1.5. As small: {} {1.5} {1.5} of 16.
    assert wilcoxon_p([-1, 1, 2, 3]) == pytest.approx(2 * 3 / 16)


def test_many_ties_take_the_normal_approximation() -> None:
    # 16 ranks of 8.5: mean 16 * 17 / 4 = 68, variance 16 * 17 * 33 / 24 - (16^3 - 16) / 48 = 289,
    # so the sum of 0 lies four standard deviations below: 2 * 3.167e-5.
    assert wilcoxon_p([1] * 16) == pytest.approx(6.334e-5, rel=1e-3)


def test_holm_by_hand() -> None:
    # 3 x 0.01; 2 x 0.03; 1 x 0.04 is below the one before and is raised to it.
    assert holm([0.04, 0.01, 0.03]) == pytest.approx([0.06, 0.03, 0.06])
    assert holm([0.5, 0.7]) == [1.0, 1.0]
    assert holm([0.2]) == [0.2]
    assert holm([]) == []


def test_a_scan_counts_once_however_many_runs_there_are() -> None:
    arm = [{"a": 0.8, "b": 0.5}, {"a": 0.6, "c": 0.9}]
    other = [{"a": 0.7, "b": 0.5}, {"a": 0.9, "c": 0.4, "d": 0.1}]
    # a: the mean of +0.1 and -0.3; d was scored in one of the two only.
    themselves = [{name: name for name in "abcd"}] * 2
    found = mean_differences(arm, other, themselves)
    assert found == pytest.approx({"a": -0.1, "b": 0.0, "c": 0.5})


def test_a_patient_counts_once_however_many_scans_there_are() -> None:
    arm, other = [{"ed": 0.8, "es": 0.5, "b": 0.5}], [{"ed": 0.7, "es": 0.2, "b": 0.5}]
    found = mean_differences(arm, other, [{"ed": "anna", "es": "anna", "b": "bert"}])
    assert found == pytest.approx({"anna": 0.2, "bert": 0.0})


def test_the_same_name_of_another_patient_is_another_patient() -> None:
    arm, other = [{"a": 0.8}, {"a": 0.5}], [{"a": 0.7}, {"a": 0.2}]
    found = mean_differences(arm, other, [{"a": "a, seed 0"}, {"a": "a, seed 1"}])
    assert found == pytest.approx({"a, seed 0": 0.1, "a, seed 1": 0.3})


def test_runs_without_a_partner_are_refused() -> None:
    with pytest.raises(ValueError, match="longer"):
        mean_differences([{"a": 1.0}], [{"a": 1.0}, {"a": 1.0}], [{"a": "a"}])
