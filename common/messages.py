"""Requests and replies as Flower messages. The only Flower code that both sides share.

On the wire a message holds one array of bytes: what `common.updates` makes of a request or a
reply. Flower carries every tensor, and every piece of it, as an object of its own with a request
over the network for each; in one array a hundred of them cost what one does. Its strategies, which
want one ArrayRecord with a tensor per name, get that at the server.
"""

from io import BytesIO

import numpy as np
from flwr.app import Array, ArrayRecord, RecordDict
from numpy.lib import format as npy

from common.errors import BadReplyError, SettingsError
from common.updates import Arrays, LocalUpdate, RoundRequest, decode_update, encode_request

ARRAYS, METRICS = "arrays", "metrics"
WEIGHT = "num-examples"
PAYLOAD = "oneslice"


def arrays_to_record(arrays: Arrays) -> ArrayRecord:
    """The tensors as an ArrayRecord, in the same order."""
    return ArrayRecord({name: Array(array) for name, array in arrays.items()})


def record_to_arrays(record: ArrayRecord) -> Arrays:
    """The tensors of an ArrayRecord, copied: records of outgoing messages share their content."""
    return {name: array.numpy().copy() for name, array in record.items()}


def bytes_to_content(data: bytes) -> RecordDict:
    """A message's content that carries the bytes."""
    array = Array(np.frombuffer(data, dtype=np.uint8))
    return RecordDict({PAYLOAD: ArrayRecord({PAYLOAD: array})})


def request_to_content(request: RoundRequest, arrays: Arrays) -> RecordDict:
    """A message's content that carries a request and its tensors."""
    return bytes_to_content(encode_request(request, arrays))


def content_to_request_bytes(content: RecordDict) -> bytes:
    """What a hospital's `answer` takes, from a message's content; not looked into.

    Raises:
        SettingsError: there are no bytes in it.
    """
    try:
        return _bytes_of(content)
    except Exception as error:  # noqa: BLE001  (NumPy's reader raises what it likes on bad bytes)
        raise SettingsError(f"expected a request, got {type(error).__name__}") from None


def content_to_update(content: RecordDict) -> LocalUpdate:
    """The reply in a message's content.

    Raises:
        BadReplyError: it is no reply of this protocol.
    """
    try:
        data = _bytes_of(content)
    except Exception as error:  # noqa: BLE001  (as above)
        raise BadReplyError(f"expected a reply's bytes, got {type(error).__name__}") from None
    return decode_update(data)


def _bytes_of(content: RecordDict) -> bytes:
    # As `Array.numpy` reads them, without its copies: a model may have 100 MB.
    array = content.array_records[PAYLOAD][PAYLOAD]
    if (array.dtype, array.stype) != ("uint8", "numpy.ndarray"):
        raise TypeError
    header = BytesIO(array.data)
    if npy.read_magic(header) != (1, 0):
        raise TypeError
    shape, _, dtype = npy.read_array_header_1_0(header)
    data = array.data[header.tell() :]
    if shape != (len(data),) or dtype != np.uint8:
        raise TypeError
    return data
