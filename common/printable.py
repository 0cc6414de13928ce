"""Text from outside as a terminal may show it."""

# The same as a pattern of pydantic's, for text that is refused otherwise.
PRINTABLE = r"[^\p{C}\p{Zl}\p{Zp}]"


def printable(text: str) -> str:
    r"""The text with everything that is no visible letter escaped, as `\x1b` or `\u202e`.

    What came from outside could otherwise move the cursor, hide lines or turn their order round,
    and have a person read something else than what is there.
    """
    return "".join(
        letter if letter.isprintable() else letter.encode("unicode_escape").decode()
        for letter in text
    )
