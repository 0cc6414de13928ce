"""Which sentence of a failure leaves the hospital: one of a few fixed ones, never the error's text.

The text may name files, and through them patients; it stays in the hospital's log and audit.
"""

import errno

from client.approvals import NOT_APPROVED, NotApprovedError
from common.errors import DiskFullError, OneSliceError

DISK_FULL = "the disk is full at this hospital"
MEMORY_FULL = "the memory is full at this hospital"
SEE_LOG = "see the hospital's log"
NO_ROOM = (errno.ENOSPC, errno.EDQUOT)


def sentence_of(error: Exception) -> str:
    """What the coordinator is told of an error."""
    if isinstance(error, NotApprovedError):
        return NOT_APPROVED
    if isinstance(error, DiskFullError) or (isinstance(error, OSError) and error.errno in NO_ROOM):
        return DISK_FULL
    # torch's error of a full graphics card is told by its name: torch is not loaded for it here.
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return MEMORY_FULL
    if isinstance(error, OneSliceError):
        return f"{type(error).__name__}: {SEE_LOG}"
    return SEE_LOG
