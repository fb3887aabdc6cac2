"""The whole path in Python: texts -> OWLv2 boxes -> NMS -> segment-anything's box prompts -> filtered masks.

`whole_path.json` holds, per photo, what remains after each step, and every decision that was close.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torchvision.ops
from segment_anything import SamPredictor
from segment_anything.utils.amg import calculate_stability_score

from checkpoints import Checkpoint, build, image_processor, tokenizer
from fixture_files import coco_rle, repository_path
from pixels import prepare
from reference_common import NEAR, PHOTOS, REPOSITORY, made_with, near, photo_record, read_photo, write_json
from reference_model import load

SAM_CHECKPOINT = REPOSITORY / "models" / "sam-seeded-tiny.safetensors"

LABELS = ["a photo of a cat", "a dog", "coffee", "a red bowl on a table"]
SCORE_THRESHOLD = 0.35
NMS_IOU = 0.5
PRED_IOU_THRESHOLD = 1.0  # untrained predictions are around 1
STABILITY_THRESHOLD = 0.92
STABILITY_OFFSET = 1.0


@dataclass
class Detections:
    """Boxes with a label each, in the order of the patches that they came from."""

    boxes: torch.Tensor
    """`[n, 4]` XYXY in pixels of the photo, as `post_process_object_detection` returns them: they may reach beyond it."""
    scores: torch.Tensor
    labels: torch.Tensor
    patches: torch.Tensor

    def pick(self, indices: torch.Tensor) -> "Detections":
        """The detections at `indices`, in that order."""
        return Detections(**{name: values[indices] for name, values in vars(self).items()})


def detect(checkpoint: Checkpoint, model, folder: Path, image: np.ndarray, notes: list) -> Detections:
    """Every patch whose best label scores above the threshold and whose box has a part inside the photo."""
    processor, tokens = image_processor(checkpoint), tokenizer(folder)
    ids = tokens(LABELS, padding="max_length", truncation=True, max_length=checkpoint.context, return_tensors="pt")
    outputs = model(input_ids=ids.input_ids, pixel_values=prepare(processor, image)[None])
    height, width = image.shape[:2]
    (found,) = processor.post_process_object_detection(
        outputs, threshold=SCORE_THRESHOLD, target_sizes=torch.tensor([[height, width]])
    )
    best = outputs.logits[0].max(dim=-1).values.sigmoid()
    for patch, score in enumerate(best.tolist()):
        _note(notes, "label_score", score, SCORE_THRESHOLD, {"patch": patch})
    inside = torchvision.ops.clip_boxes_to_image(found["boxes"], (height, width))
    patches = (best > SCORE_THRESHOLD).nonzero()[:, 0]
    detections = Detections(found["boxes"], found["scores"], found["labels"], patches)
    return detections.pick((torchvision.ops.box_area(inside) > 0).nonzero()[:, 0])


def suppress(detections: Detections, notes: list) -> Detections:
    """Greedy NMS within each label: the highest score first."""
    overlaps = torchvision.ops.box_iou(detections.boxes, detections.boxes)
    same_label = detections.labels[:, None] == detections.labels[None]
    close = torch.triu((overlaps - NMS_IOU).abs() < NEAR, diagonal=1) & same_label
    for first, second in close.nonzero().tolist():
        patches = [detections.patches[first].item(), detections.patches[second].item()]
        _note(notes, "box_iou", overlaps[first, second].item(), NMS_IOU, {"patches": patches})
    return detections.pick(torchvision.ops.batched_nms(detections.boxes, detections.scores, detections.labels, NMS_IOU))


def segment(predictor: SamPredictor, boxes: torch.Tensor, mask_input: torch.Tensor | None):
    """One mask per box: logits at the photo's size `[n, height, width]`, predicted IoU `[n]`, low-resolution logits.

    Coordinates are scaled in f64, as in the stage fixtures.
    """
    prompts = predictor.transform.apply_boxes(boxes.double().numpy(), predictor.original_size)
    logits, iou, low_res = predictor.predict_torch(
        None, None, torch.as_tensor(prompts), mask_input, multimask_output=False, return_logits=True
    )
    return logits[:, 0], iou[:, 0], low_res


def describe(name: str, logits: torch.Tensor, iou: torch.Tensor, detections: Detections, notes: list) -> list[dict]:
    """One record per mask, with the filters' verdict."""
    stability = calculate_stability_score(logits, 0.0, STABILITY_OFFSET)
    records = []
    for mask, predicted, stable, patch in zip(
        (logits > 0.0).numpy(), iou.tolist(), stability.tolist(), detections.patches.tolist(), strict=True
    ):
        where = {"variant": name, "patch": patch}
        _note(notes, "predicted_iou", predicted, PRED_IOU_THRESHOLD, where)
        _note(notes, "stability_score", stable, STABILITY_THRESHOLD, where)
        records.append(
            {
                "patch": patch,
                "predicted_iou": predicted,
                "stability_score": stable,
                "kept": predicted > PRED_IOU_THRESHOLD and stable >= STABILITY_THRESHOLD,
                "area": int(mask.sum()),
                "segmentation": coco_rle(mask),
            }
        )
    return records


@torch.no_grad()
def write_whole_path(checkpoint: Checkpoint, folder: Path, output: Path) -> None:
    """Writes `whole_path.json` from the OWLv2 checkpoint in `folder`."""
    model, predictor = build(checkpoint), SamPredictor(load("tiny", SAM_CHECKPOINT))
    photos = []
    for name in PHOTOS:
        image, notes = read_photo(name), []
        detected = detect(checkpoint, model, folder, image, notes)
        kept = suppress(detected, notes)
        predictor.set_image(image)
        logits, iou, low_res = segment(predictor, kept.boxes, None)
        masks = describe("once", logits, iou, kept, notes)
        logits, iou, _ = segment(predictor, kept.boxes, low_res)
        refined = describe("refined", logits, iou, kept, notes)
        passed = [sum(mask["kept"] for mask in variant) for variant in (masks, refined)]
        print(
            f"{name}: {len(detected.scores)} detections, {len(kept.scores)} after NMS, "
            f"{passed} pass the filters; {len(notes)} decisions near a threshold"
        )
        photos.append(
            photo_record(name)
            | {
                "detected": len(detected.scores),
                "detections": _detection_records(kept),
                "masks": masks,
                "masks_refined": refined,
                "near_thresholds": notes,
            }
        )
    verdicts = {mask["kept"] for photo in photos for mask in photo["masks"] + photo["masks_refined"]}
    if verdicts != {True, False}:
        raise SystemExit("the filters keep every mask or none: change their thresholds")
    write_json(
        output,
        {
            "made_with": made_with(),
            "checkpoint": checkpoint.name,
            "sam_checkpoint": repository_path(SAM_CHECKPOINT),
            "labels": LABELS,
            "score_threshold": SCORE_THRESHOLD,
            "nms_iou": NMS_IOU,
            "pred_iou_threshold": PRED_IOU_THRESHOLD,
            "stability_threshold": STABILITY_THRESHOLD,
            "stability_offset": STABILITY_OFFSET,
            "photos": photos,
        },
    )


def _detection_records(detections: Detections) -> list[dict]:
    columns = {
        "patch": detections.patches,
        "label": detections.labels,
        "score": detections.scores,
        "box_xyxy_px": detections.boxes,
    }
    rows = zip(*(values.tolist() for values in columns.values()), strict=True)
    return [dict(zip(columns, row, strict=True)) for row in rows]


def _note(notes: list, decision: str, value: float, threshold: float, where: dict) -> None:
    if near(value, threshold):
        notes.append({"decision": decision, "value": value, "threshold": threshold, **where})
