"""Image processors of transformers, and what they make of photos.

`inputs_<family>.json` and `.safetensors` hold samples of pixels at the published sizes, for photos that must be shrunk
and one that must be enlarged.
"""

from pathlib import Path

import numpy as np
import torch
from PIL import Image
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil
from transformers.models.owlv2.image_processing_pil_owlv2 import Owlv2ImageProcessorPil
from transformers.models.owlvit.image_processing_pil_owlvit import OwlViTImageProcessorPil

from checkpoints import FULL, Checkpoint, image_processor
from reference_common import made_with, photo_record, read_photo, save_tensors, write_json

STRIDES = {"clip": 3, "owlv2": 17, "owlvit": 9}
"""Every so many rows and columns are kept: all phases of the resize, at a small part of the size."""

REPEATED = (("coffee.png", 3), ("dogs.png", 5), ("cat.png", 1))
"""Photos, and how many times each pixel is repeated along both sides before they are prepared."""

PIL_BACKENDS = {
    "clip": CLIPImageProcessorPil,
    "openclip": CLIPImageProcessorPil,
    "owlv2": Owlv2ImageProcessorPil,
    "owlvit": OwlViTImageProcessorPil,
}


def repeat_pixels(image: np.ndarray, times: int) -> np.ndarray:
    """Enlarges by whole pixels: the one enlargement that every implementation computes alike."""
    return image.repeat(times, axis=0).repeat(times, axis=1)


def prepare(processor, image: np.ndarray) -> torch.Tensor:
    """`[3, height, width]` f32: what the processor makes of one photo."""
    return processor(Image.fromarray(image), return_tensors="pt").pixel_values[0]


def to_levels(processor, pixel_values: torch.Tensor) -> torch.Tensor:
    """Undoes the normalising, to the nearest u8 level."""
    mean, std = (torch.tensor(each)[:, None, None] * 255 for each in (processor.image_mean, processor.image_std))
    return (pixel_values * std + mean).round().to(torch.uint8)


def before_normalising(processor, pixel_values: torch.Tensor) -> torch.Tensor:
    """The u8 pixels that were normalised to `pixel_values`; stops unless they give the same values again, bit for bit.

    CLIP's and OWL-ViT's processors resize in u8. OWLv2's resizes in f32: there are no such pixels.
    """
    pixels = to_levels(processor, pixel_values)
    again = processor(pixels, do_resize=False, do_center_crop=False, return_tensors="pt").pixel_values[0]
    if not torch.equal(again, pixel_values):
        raise SystemExit("the pixels before normalising cannot be recovered")
    return pixels


def kept_pixels(checkpoint: Checkpoint, processor, pixel_values: torch.Tensor) -> dict[str, torch.Tensor]:
    """Prepared pixels as a fixture keeps them: `pixel_values`, or the smaller `pixels_u8` where nothing is lost."""
    if checkpoint.family == "owlv2":
        return {"pixel_values": pixel_values}
    return {"pixels_u8": before_normalising(processor, pixel_values)}


def write_processor_inputs(output: Path) -> None:
    """Writes samples of the pixels that the processors prepare at the published sizes.

    Where the default backend's pixels are u8, the PIL backend's are kept too: they differ by rounding alone.
    """
    for checkpoint in FULL:
        processor, pil = image_processor(checkpoint), image_processor(checkpoint, PIL_BACKENDS[checkpoint.family])
        stride = STRIDES[checkpoint.family]
        tensors, cases = {}, []
        for name, times in REPEATED:
            image = repeat_pixels(read_photo(name), times)
            stem = f"{Path(name).stem}_x{times}"
            kept = kept_pixels(checkpoint, processor, prepare(processor, image))
            if "pixels_u8" in kept:
                kept["pil_pixels_u8"] = to_levels(pil, prepare(pil, image).float())
            for kind, pixels in kept.items():
                tensors[f"{stem}/{kind}"] = pixels[:, ::stride, ::stride]
            cases.append(photo_record(name) | {"repeated": times, "tensors": stem})
        stem = f"inputs_{checkpoint.family}"
        save_tensors(output / f"{stem}.safetensors", tensors)
        write_json(
            output / f"{stem}.json",
            {
                "made_with": made_with(),
                "family": checkpoint.family,
                "tensors": f"{stem}.safetensors",
                "image_size": checkpoint.image_size,
                "stride": stride,
                "cases": cases,
            },
        )
