"""What came from outside cannot steer the terminal that it is shown on."""

import pytest

from common.printable import printable


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("Leber links é ¼ 心", "Leber links é ¼ 心"),
        ("red\x1b[31m", r"red\x1b[31m"),
        ("one\r\ntwo\ttabs", r"one\r\ntwo\ttabs"),
        ("\x7f\x9b", r"\x7f\x9b"),
        ("abc\u202ecba\u2066\u200b", r"abc\u202ecba\u2066\u200b"),
        ("\u2028", r"\u2028"),
        ("\ud800", r"\ud800"),
        ("\U000e0001", r"\U000e0001"),
    ],
)
def test_only_visible_letters_are_left(text: str, shown: str) -> None:
    assert printable(text) == shown
    assert printable(shown) == shown
