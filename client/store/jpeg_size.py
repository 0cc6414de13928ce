"""How large a picture a JPEG stream promises, before anything unpacks it.

Decoders believe the stream: a few damaged bytes make one of JPEG-LS take 7 GB and 20 s.
"""

import struct

START_OF_FRAME = {*range(0xC0, 0xD0), 0xF7} - {0xC4, 0xC8, 0xCC}
WITHOUT_LENGTH = {0x01, *range(0xD0, 0xD9)}
JPEG_START = b"\xff\xd8"
# Start of the codestream and its size segment, bare or inside a JP2 box.
JPEG_2000_START = b"\xff\x4f\xff\x51"


def promised_size(stream: bytes) -> tuple[int, int, int] | None:
    """Rows, columns and values per pixel of a JPEG, JPEG-LS or JPEG 2000 stream.

    None if no size is found before the pixels: then it is none of these, or damaged.
    """
    if stream.startswith(JPEG_START):
        return _size_of_jpeg(stream)
    start = stream.find(JPEG_2000_START)
    if start < 0 or len(stream) < start + 42:
        return None
    right, lower, left, upper = struct.unpack_from(">4I", stream, start + 8)
    (components,) = struct.unpack_from(">H", stream, start + 40)
    return lower - upper, right - left, components


def _size_of_jpeg(stream: bytes) -> tuple[int, int, int] | None:
    at = len(JPEG_START)
    while at + 10 <= len(stream) and stream[at] == 0xFF:
        marker = stream[at + 1]
        if marker in START_OF_FRAME:
            rows, columns, components = struct.unpack_from(">HHB", stream, at + 5)
            return rows, columns, components
        # 0xFF may be repeated before a marker.
        step = 1 if marker == 0xFF else 2
        if marker not in WITHOUT_LENGTH and marker != 0xFF:
            step += struct.unpack_from(">H", stream, at + 2)[0]
        at += step
    return None
