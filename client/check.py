"""One thing that `oneslice hospital doctor` looked at."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Check:
    """What was looked at and found; what is wrong with it, if anything, and what to do then."""

    check: str
    found: str
    problem: str = ""
    what_to_do: str = ""
