"""Digests of every sample photo as Pillow decodes it and as the reference resizes it.

A digest covers the raw `[height, width, 3]` uint8 bytes. PNG decoding is exact; a JPEG's resized digests are only
comparable when the decoder reproduces `decoded_sha256`.
"""

import hashlib
from pathlib import Path

import numpy as np
from segment_anything.utils.transforms import ResizeLongestSide

from fixture_files import made_with, write_json
from reference_model import REPOSITORY, read_rgb

IMAGE_SIZES = (128, 256, 333, 1024)
"""Down and up, and a size that divides nothing."""


def _digest(image: np.ndarray) -> dict:
    height, width = image.shape[:2]
    return {"height": height, "width": width, "sha256": hashlib.sha256(image.tobytes()).hexdigest()}


def write_resized_inputs(output: Path) -> None:
    """Writes the digests of all photos in `samples/`."""
    photos = []
    for path in sorted((REPOSITORY / "samples").iterdir()):
        if path.suffix not in (".png", ".jpg"):
            continue
        image = read_rgb(path)
        decoded = _digest(image)
        resized = [
            {"image_size": size, **_digest(ResizeLongestSide(size).apply_image(image))} for size in IMAGE_SIZES
        ]
        photos.append(
            {
                "image": f"samples/{path.name}",
                "height": decoded["height"],
                "width": decoded["width"],
                "decoded_sha256": decoded["sha256"],
                "resized": resized,
            }
        )
    write_json(output, {"made_with": made_with(), "photos": photos})
