"""Which OneSlice runs here: named in every request and kit, and the same on all sides."""

import importlib.metadata
import re

from common.errors import VersionError

SOFTWARE = importlib.metadata.version("oneslice")
PROTOCOL = 5
_VERSION = r"[0-9A-Za-z.+!-]{1,32}"


def release_of(version: str) -> str:
    """What must be the same on all sides: 0.1.0 of 0.1.0, of 0.1.0.dev3 and of 0.1.0+local."""
    return ".".join(re.findall(r"\d+", version)[:3])


def check_same_version(software: object, protocol: object) -> None:
    """Refuses the coordinator's version if it is another one than the hospital's, which this is.

    Args:
        software: the coordinator's version, as it came and whatever it is; none: it named none.
        protocol: the coordinator's protocol, likewise.

    Raises:
        VersionError: names both versions and the command that mends it. It holds nothing else, so
            that it may be sent to the coordinator, and is at most 200 characters long.
    """
    known = isinstance(software, str) and re.fullmatch(_VERSION, software) is not None
    theirs, number = (software if known else "unknown"), _number(protocol)
    if number == PROTOCOL and known and release_of(str(theirs)) == release_of(SOFTWARE):
        return
    mends = f"pip install oneslice=={theirs}" if known else "install the coordinator's version"
    raise VersionError(
        f"the hospital runs OneSlice {SOFTWARE} (protocol {PROTOCOL}), the coordinator {theirs} "
        f"(protocol {number or 'unknown'}); at the hospital: {mends}",
        number or PROTOCOL,
    )


def _number(protocol: object) -> int | None:
    return protocol if isinstance(protocol, int) and 1 <= protocol < 1000 else None
