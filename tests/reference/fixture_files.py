"""How fixtures are written: JSON that diffs by line, and the versions that made it."""

import json
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pycocotools.mask

from reference_model import REPOSITORY

PACKAGES = ("segment-anything", "torch", "torchvision", "pillow", "numpy", "pycocotools")


def made_with() -> dict[str, str]:
    """Versions of the packages that decide the numbers."""
    return {name: version(name) for name in PACKAGES}


def repository_path(path: Path) -> str:
    """`path` relative to the repository where it is inside it, else its file name."""
    path = path.resolve()
    return path.relative_to(REPOSITORY).as_posix() if path.is_relative_to(REPOSITORY) else path.name


def coco_rle(mask: np.ndarray) -> dict:
    """COCO's compressed run lengths of a boolean `[height, width]` mask, as JSON holds them."""
    rle = pycocotools.mask.encode(np.asfortranarray(mask, dtype=np.uint8))
    return {"size": rle["size"], "counts": rle["counts"].decode("ascii")}


def write_json(path: Path, value) -> None:
    """Writes JSON with one line per innermost record: compact, and readable in a diff."""
    path.write_text(_format(value, 0) + "\n", encoding="ascii")
    print(f"{path}: {path.stat().st_size} bytes")


def _format(value, depth: int) -> str:
    flat = json.dumps(value, separators=(",", ":"))
    is_record = isinstance(value, dict) and ("segmentation" in value or "decision" in value)
    if is_record or len(flat) <= 110 or not isinstance(value, dict | list):
        return flat
    indent = " " * (depth + 1)
    if isinstance(value, dict):
        lines = [f"{indent}{json.dumps(key)}: {_format(item, depth + 1)}" for key, item in value.items()]
        return "{\n" + ",\n".join(lines) + "\n" + " " * depth + "}"
    lines = [indent + _format(item, depth + 1) for item in value]
    return "[\n" + ",\n".join(lines) + "\n" + " " * depth + "]"
