"""Settings of a correspondence network that learns in a blink."""

SMALL_CORRESPONDENCE = {
    "steps": 10,
    "batch_size": 2,
    "crop_voxels": 8,
    "channels": 4,
    "layers": 1,
    "descriptor_length": 4,
}
