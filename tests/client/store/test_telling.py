"""Texts that tell who a scan is of."""

import pytest

from client.store.identities import Identity
from client.store.telling import telling_texts, tells

DETAILS = {"name": "Zwölfer^Anna^Dr", "birth_date": "19610203", "sex": "F", "study": "1.2.840.1"}
TELLING = telling_texts("case-17", Identity("P-00042", DETAILS))


@pytest.mark.parametrize(
    "text",
    [
        "asked by Anna", "ZWÖLFER, A.", "zwölfer^anna^dr", "for p-00042", "CASE-17", "1.2.840.1.7",
        "born 19610203", "born 3.2.1961", "born 03.02.1961", "1961-02-03", "3/2/1961",
        "born on February 3, 1961",
    ],
)  # fmt: skip
def test_a_person_is_known_in_any_spelling(text: str) -> None:
    assert tells(text, TELLING)


@pytest.mark.parametrize("text", ["asked on the ward", "Dr. M., female", "2.3.1961", "case 18", ""])
def test_other_texts_tell_nothing(text: str) -> None:
    assert not tells(text, TELLING)


def test_of_a_scan_without_a_patient_the_case_alone_tells() -> None:
    assert telling_texts("case-17", None) == ["case-17"]
    assert telling_texts("c7", None) == [], "found everywhere by chance"


def test_a_date_that_is_none_is_taken_as_it_is() -> None:
    assert telling_texts("c", Identity("", {"birth_date": "in May 1961"})) == ["in may 1961"]
