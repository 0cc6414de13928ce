"""Requests and replies as Flower records. The only Flower code that both sides share.

All networks travel in one ArrayRecord, their keys prefixed by their role ("segmenter/"), so that
Flower's own strategies and wrappers, which demand exactly one, work on them unchanged.
"""

import json

from flwr.app import Array, ArrayRecord, ConfigRecord, MetricRecord, RecordDict

from common.errors import BadReplyError, SettingsError
from common.updates import (
    Arrays,
    LocalUpdate,
    RoundRequest,
    check_note,
    check_request,
    decode_update,
    encode_request,
)

ARRAYS, CONFIG, METRICS, NOTE = "arrays", "config", "metrics", "note"
WEIGHT = "num-examples"


def arrays_to_record(arrays: Arrays) -> ArrayRecord:
    """The tensors as an ArrayRecord, in the same order."""
    return ArrayRecord({name: Array(array) for name, array in arrays.items()})


def record_to_arrays(record: ArrayRecord) -> Arrays:
    """The tensors of an ArrayRecord, copied: records of outgoing messages share their content."""
    return {name: array.numpy().copy() for name, array in record.items()}


def request_to_config(request: RoundRequest) -> ConfigRecord:
    """The request without its tensors."""
    return ConfigRecord({"request": request.model_dump_json()})


def content_to_request_bytes(content: RecordDict) -> bytes:
    """What a hospital's `answer` takes, from a message's content.

    Raises:
        SettingsError: it is no request, or a value is out of range.
    """
    try:
        config = content.config_records[CONFIG]
        asked = json.loads(str(config["request"]))
        record = content.array_records.get(ARRAYS)
        arrays = record_to_arrays(record) if record is not None else {}
    except Exception as error:  # noqa: BLE001  (NumPy's reader raises what it likes on bad bytes)
        raise SettingsError(f"expected a request, got {type(error).__name__}") from None
    request = check_request(asked)
    if "proximal-mu" in config:
        # Flower's FedProx adds its own key beside ours; it travels on as part of the request.
        values = {**request.model_dump(), "proximal_mu": config["proximal-mu"]}
        request = check_request(values)
    return encode_request(request, arrays)


def reply_bytes_to_content(data: bytes) -> RecordDict:
    """A message's content, from what a hospital's `answer` returned."""
    update = decode_update(data)
    return RecordDict(
        {
            ARRAYS: arrays_to_record(update.arrays),
            METRICS: MetricRecord({WEIGHT: update.note.num_examples}),
            NOTE: ConfigRecord({"note": update.note.model_dump_json()}),
        }
    )


def content_to_update(content: RecordDict) -> LocalUpdate:
    """The reply in a message's content.

    Raises:
        BadReplyError: a record is missing, or a value is not one that may come.
    """
    try:
        text = str(content.config_records[NOTE]["note"])
        arrays = record_to_arrays(content.array_records[ARRAYS])
    except Exception as error:  # noqa: BLE001  (as above)
        raise BadReplyError(f"expected tensors and a note, got {type(error).__name__}") from None
    return LocalUpdate(arrays, check_note(text))
