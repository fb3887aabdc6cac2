"""What every grounding fixture shares: the photos, how files are written, and the versions that made them.

Photos are decoded by `reference_model.read_rgb` of the folder above, so that both sets of fixtures agree on pixels.
"""

import json
import os
import sys
from importlib.metadata import version
from pathlib import Path

os.environ.setdefault("CUDA_VISIBLE_DEVICES", "")  # the fixtures are defined on the CPU in f32
os.environ.setdefault("HF_HUB_OFFLINE", "1")  # nothing here is downloaded

sys.path.append(str(Path(__file__).resolve().parents[1]))

import torch  # noqa: E402
from safetensors.torch import save_file  # noqa: E402

from reference_model import REPOSITORY, read_rgb  # noqa: E402

FIXTURES = REPOSITORY / "tests" / "reference" / "fixtures" / "grounding"

PHOTOS = ("cat.png", "coffee.png", "dogs.png")
"""Two landscapes and a portrait, none square; PNG, so that every decoder yields the same pixels."""

NEAR = 1e-3
"""A decision this close to its threshold may fall the other way in another implementation."""

PACKAGES = (
    "transformers",
    "tokenizers",
    "open_clip_torch",
    "segment-anything",
    "torch",
    "torchvision",
    "pillow",
    "numpy",
    "scipy",
    "pycocotools",
)


def made_with() -> dict[str, str]:
    """Versions of the packages that decide the numbers."""
    return {name: version(name) for name in PACKAGES}


def read_photo(name: str):
    """The sample photo of that name, `[height, width, 3]` uint8."""
    return read_rgb(REPOSITORY / "samples" / name)


def photo_record(name: str) -> dict:
    """How a fixture names a photo."""
    height, width = read_photo(name).shape[:2]
    return {"image": f"samples/{name}", "height": height, "width": width}


def near(value: float, threshold: float) -> bool:
    """Whether rounding in another implementation may move `value` across `threshold`."""
    return abs(value - threshold) < NEAR


def save_tensors(path: Path, tensors: dict[str, torch.Tensor]) -> None:
    """Writes a `.safetensors` file that everybody may read."""
    save_file({name: tensor.detach().contiguous().clone() for name, tensor in tensors.items()}, path)
    path.chmod(0o644)  # save_file makes it private
    print(f"{path}: {path.stat().st_size} bytes, {len(tensors)} tensors")


def write_json(path: Path, value) -> None:
    """Writes JSON with one line per record: compact, and readable in a diff."""
    path.write_text(_format(value, 0) + "\n", encoding="ascii")
    print(f"{path}: {path.stat().st_size} bytes")


def _format(value, depth: int) -> str:
    if _is_line(value):
        return json.dumps(value, separators=(",", ":"))
    indent = " " * (depth + 1)
    if isinstance(value, dict):
        lines = [f"{indent}{json.dumps(key)}: {_format(item, depth + 1)}" for key, item in value.items()]
        return "{\n" + ",\n".join(lines) + "\n" + " " * depth + "}"
    lines = [indent + _format(item, depth + 1) for item in value]
    return "[\n" + ",\n".join(lines) + "\n" + " " * depth + "]"


def _is_line(value) -> bool:
    """Scalars, lists of numbers, short lists, and records without lists of records."""
    if isinstance(value, dict):
        return not any(isinstance(item, list) and not _is_line(item) for item in value.values())
    if isinstance(value, list):
        return all(isinstance(item, int | float) for item in value) or len(json.dumps(value)) <= 110
    return True
