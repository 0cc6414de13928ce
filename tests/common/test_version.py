"""Which versions go together, and what the others are told."""

import importlib.metadata

import pytest

from common.errors import VersionError
from common.version import PROTOCOL, SOFTWARE, check_same_version, release_of

NEXT = PROTOCOL + 1


def test_the_software_is_the_installed_one() -> None:
    assert importlib.metadata.version("oneslice") == SOFTWARE


@pytest.mark.parametrize("version", ["1.2.3", "1.2.3.dev4", "1.2.3+local.7", "1.2.3rc1"])
def test_builds_of_one_release_go_together(version: str) -> None:
    assert release_of(version) == "1.2.3"


def test_the_same_version_is_let_through() -> None:
    check_same_version(SOFTWARE, PROTOCOL)
    check_same_version(f"{SOFTWARE}+local", PROTOCOL)


@pytest.mark.parametrize(
    ("software", "protocol", "said", "answered_in"),
    [
        ("99.1.2", PROTOCOL, r"coordinator 99\.1\.2 .*: pip install oneslice==99\.1\.2$", PROTOCOL),
        (SOFTWARE, NEXT, rf"the coordinator {SOFTWARE} \(protocol {NEXT}\)", NEXT),
        (None, 2, r"unknown \(protocol 2\); .*: install the coordinator's version$", 2),
        ("1.0; rm -rf /", PROTOCOL, rf"unknown \(protocol {PROTOCOL}\)", PROTOCOL),
        ("9" * 64, PROTOCOL, r"unknown", PROTOCOL),
        (SOFTWARE, "3", r"\(protocol unknown\)", PROTOCOL),
        (SOFTWARE, 10**40, r"\(protocol unknown\)", PROTOCOL),
        ({"a": 1}, None, r"unknown \(protocol unknown\)", PROTOCOL),
    ],
)
def test_another_version_is_told_both_and_what_to_do(
    software: object, protocol: object, said: str, answered_in: int
) -> None:
    with pytest.raises(VersionError, match=said) as caught:
        check_same_version(software, protocol)
    assert f"the hospital runs OneSlice {SOFTWARE} (protocol {PROTOCOL})" in str(caught.value)
    assert caught.value.protocol == answered_in
    assert len(str(caught.value)) <= 200


def test_the_longest_sentence_fits_a_note() -> None:
    with pytest.raises(VersionError, match=r"9{32}") as caught:
        check_same_version("9" * 32, 999)
    assert len(str(caught.value)) <= 200
