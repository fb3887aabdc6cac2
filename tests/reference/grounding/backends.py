"""`backends.json`: how far the PIL and SciPy backends of transformers' image processors are from the default ones.

The fixtures are made with the default backends (torchvision). This says what it costs to follow the others instead.
"""

from pathlib import Path

import torch

from checkpoints import Checkpoint, build, image_processor
from owl_outputs import THRESHOLDS, query_ids
from pixels import PIL_BACKENDS, prepare
from reference_common import PHOTOS, made_with, read_photo, write_json


@torch.no_grad()
def write_backend_differences(checkpoints: list[Checkpoint], folder: Path) -> None:
    """Writes one record per checkpoint in `folder` and photo."""
    cases = []
    for checkpoint in checkpoints:
        model = build(checkpoint)
        processor, pil = image_processor(checkpoint), image_processor(checkpoint, PIL_BACKENDS[checkpoint.family])
        for name in PHOTOS:
            image = read_photo(name)
            default, other = prepare(processor, image), prepare(pil, image).float()
            levels = (default - other).abs() * torch.tensor(processor.image_std)[:, None, None] * 255
            cases.append(
                {
                    "checkpoint": checkpoint.name,
                    "image": f"samples/{name}",
                    "max_levels": round(levels.max().item(), 4),
                    "mean_levels": round(levels.mean().item(), 4),
                    **_effect(checkpoint, folder / checkpoint.name, model, torch.stack([default, other])),
                }
            )
    write_json(folder / "backends.json", {"made_with": made_with(), "cases": cases})


def _effect(checkpoint: Checkpoint, folder: Path, model, pixel_values: torch.Tensor) -> dict:
    """What is left of the difference in the model's output. `pixel_values` are `[2, 3, side, side]`."""
    if checkpoint.family in ("clip", "openclip"):
        if checkpoint.family == "clip":
            features = model.get_image_features(pixel_values).pooler_output
        else:
            features = model.encode_image(pixel_values)
        return {"cosine": round(torch.cosine_similarity(features[0], features[1], dim=0).item(), 7)}
    ids = query_ids(checkpoint, folder)
    outputs = model(input_ids=ids.repeat(2, 1), pixel_values=pixel_values)
    scores, labels = outputs.logits.sigmoid().max(dim=-1)
    found = []
    for threshold in THRESHOLDS:
        kept = scores > threshold
        changed = (kept[0] != kept[1]) | (kept[0] & (labels[0] != labels[1]))
        found.append({"threshold": threshold, "detections": kept.sum(dim=-1).tolist(), "changed": changed.sum().item()})
    return {
        "score_moved": round((scores[0] - scores[1]).abs().max().item(), 5),
        "box_moved": round((outputs.pred_boxes[0] - outputs.pred_boxes[1]).abs().max().item(), 5),
        "thresholds": found,
    }
