"""Names of labels as different programs and people write them."""

import re


def comparable_name(name: str) -> str:
    """Lower case, one hyphen for each run of spaces and signs: plans cannot name "Left lobe"."""
    return re.sub(r"[\W_]+", "-", name.casefold()).strip("-")
