"""What the clinician's page shows of a scan."""

import numpy as np

from client.store.display import Display, make_display


def test_ct_keeps_its_hounsfield_units_and_opens_with_the_plans_window() -> None:
    image = np.array([-1024.0, 0.4, 0.6, 3071.0], dtype=np.float32).reshape(1, 4, 1, 1)
    stack, display = make_display(image, 0, "CT", (-160.0, 240.0))
    assert stack.flatten().tolist() == [-1024, 0, 1, 3071]
    assert display == Display("HU", -160, 240)


def test_ct_beyond_sixteen_bits_is_clipped() -> None:
    image = np.array([-1e6, 1e6], dtype=np.float32).reshape(1, 2, 1, 1)
    stack, _ = make_display(image, 0, "CT", (0.0, 1.0))
    assert stack.flatten().tolist() == [-32768, 32767]


def test_mr_is_stretched_over_the_positive_half() -> None:
    image = np.array([-10.0, 0.0, 10.0], dtype=np.float32).reshape(1, 3, 1, 1)
    stack, display = make_display(image, 0, "MR", None)
    assert stack.flatten().tolist() == [0, 16384, 32767]
    assert display.unit == "grey"
    assert 0 <= display.low < display.high <= 32767


def test_a_constant_volume_has_a_window_too() -> None:
    _, display = make_display(np.full((1, 2, 2, 2), 7.0, dtype=np.float32), 0, "MR", None)
    assert display.low < display.high


def test_the_painted_axis_comes_first_and_each_slice_is_one_read() -> None:
    image = np.arange(2 * 3 * 4 * 5, dtype=np.float32).reshape(2, 3, 4, 5)
    for axis in range(3):
        stack, _ = make_display(image, axis, "CT", (0.0, 1.0))
        wanted = np.moveaxis(image[0], axis, 0)
        assert np.array_equal(stack, wanted)
        assert stack[0].flags.c_contiguous
