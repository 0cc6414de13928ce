"""The time as the catalog writes it: texts that sort as the times do."""

from datetime import UTC, datetime


def now() -> str:
    """This moment, UTC, to the microsecond."""
    return datetime.now(UTC).isoformat(timespec="microseconds")
