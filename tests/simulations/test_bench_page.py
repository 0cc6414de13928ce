"""What the page's bench draws and prints; the timing itself needs a quiet machine."""

import numpy as np

from simulations.bench_page import Timing, draw_ct, to_text


def test_the_synthetic_ct_holds_air_tissue_organ_and_bone() -> None:
    volume = draw_ct((64, 48, 9))
    assert volume.shape == (64, 48, 9)
    assert volume.dtype == np.int16
    assert volume[0, 0].max() < -900
    middle = volume[:, :, 4]
    # The spine lies behind the organ, which lies to the left of the middle: indexes grow to the
    # right and to the front.
    assert abs(float(middle[31:33, 13:15].mean()) - 400) < 30
    assert abs(float(middle[20:24, 22:26].mean()) - 110) < 20
    assert abs(float(middle[44:48, 22:26].mean()) - 40) < 20
    # The organ ends before the first and the last slice.
    assert abs(float(volume[20:24, 22:26, 0].mean()) - 40) < 20


def test_the_table_tells_median_worst_and_limit() -> None:
    timing = Timing("stroke", 30, (10.0, 20.0, 90.0))
    assert timing.median_ms == 20.0
    assert abs(timing.slowest_ms - 83.0) < 1e-9  # 95 % of the way through three sorted times
    line = to_text([timing]).splitlines()[1]
    assert line.split() == ["stroke", "20.0", "83.0", "30"]
