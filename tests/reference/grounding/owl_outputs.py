"""What OWLv2 and OWL-ViT compute on photos: detections for texts, and for an example crop of another photo.

`<checkpoint>.json` holds queries, photos and detections, `<checkpoint>.safetensors` the tensors on the way.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torchvision.ops

from checkpoints import Checkpoint, build, image_processor, tokenizer
from pixels import kept_pixels, prepare
from reference_common import NEAR, PHOTOS, made_with, near, photo_record, read_photo, save_tensors, write_json

QUERIES = ["a photo of a cat", "a dog", "coffee", "a red bowl on a table", "the sky! the sea!", "dog, cat & " * 20]
"""The fifth holds OWL's pad token, the last is longer than the context."""

THRESHOLDS = (0.1, 0.5)
EXAMPLE_THRESHOLD = 0.3
EXAMPLE_NMS = 0.3


@dataclass(frozen=True)
class Example:
    """An image-guided query: a crop of one photo, looked for in another."""

    crop_of: str
    crop_xyxy: tuple[int, int, int, int]
    target: str


EXAMPLES = (
    Example("dogs.png", (60, 150, 300, 480), "cat.png"),
    Example("cat.png", (120, 40, 380, 200), "dogs.png"),
)


def query_ids(checkpoint: Checkpoint, folder: Path) -> torch.Tensor:
    """`[queries, context]` ids, as `Owlv2Processor` and `OwlViTProcessor` make them."""
    tokens = tokenizer(folder)
    return tokens(
        QUERIES, padding="max_length", truncation=True, max_length=checkpoint.context, return_tensors="pt"
    ).input_ids


def detections(processor, outputs, threshold: float, height: int, width: int) -> list[dict]:
    """`post_process_object_detection` of one photo, as records with the patch that each came from."""
    (found,) = processor.post_process_object_detection(
        outputs, threshold=threshold, target_sizes=torch.tensor([[height, width]])
    )
    patches = (outputs.logits[0].max(dim=-1).values.sigmoid() > threshold).nonzero()[:, 0].tolist()
    rows = zip(patches, found["labels"].tolist(), found["scores"].tolist(), found["boxes"].tolist(), strict=True)
    return [{"patch": patch, "label": label, "score": score, "box": box} for patch, label, score, box in rows]


def close_decisions(logits: torch.Tensor, thresholds: tuple[float, ...]) -> list[dict]:
    """Patches whose score is close to a threshold, or their two best labels to each other.

    `logits` are `[patches, queries]`.
    """
    scores = logits.sigmoid()
    best = scores.topk(min(2, scores.shape[1]), dim=-1).values
    notes = []
    for patch, row in enumerate(best.tolist()):
        for threshold in thresholds:
            if near(row[0], threshold):
                notes.append({"decision": "score", "patch": patch, "value": row[0], "threshold": threshold})
        if len(row) == 2 and row[0] > min(thresholds) and near(row[0], row[1]):
            notes.append({"decision": "label", "patch": patch, "value": row[0], "runner_up": row[1]})
    return notes


@torch.no_grad()
def write_owl_outputs(checkpoint: Checkpoint, folder: Path, output: Path) -> None:
    """Writes the fixture of the checkpoint in `folder` to `output`."""
    model, processor = build(checkpoint), image_processor(checkpoint)
    ids, tokens = query_ids(checkpoint, folder), tokenizer(folder)
    tensors = {"token_ids": ids.to(torch.int64)}
    photos = []
    for index, name in enumerate(PHOTOS):
        image = read_photo(name)
        height, width = image.shape[:2]
        pixel_values = prepare(processor, image)
        outputs = model(input_ids=ids, pixel_values=pixel_values[None])
        stem = Path(name).stem
        for kind, kept in kept_pixels(checkpoint, processor, pixel_values).items():
            tensors[f"{stem}/{kind}"] = kept
        if index == 0:
            tensors["text_embeds"] = outputs.text_embeds[0]
            tensors[f"{stem}/image_embeds"] = outputs.image_embeds[0]
        tensors[f"{stem}/class_embeds"] = outputs.class_embeds[0]
        tensors[f"{stem}/logits"] = outputs.logits[0]
        tensors[f"{stem}/pred_boxes"] = outputs.pred_boxes[0]
        if checkpoint.family == "owlv2":
            tensors[f"{stem}/objectness_logits"] = outputs.objectness_logits[0]
        photos.append(
            photo_record(name)
            | {
                "tensors": stem,
                "thresholds": [
                    {"threshold": threshold, "detections": detections(processor, outputs, threshold, height, width)}
                    for threshold in THRESHOLDS
                ],
                "near_thresholds": close_decisions(outputs.logits[0], THRESHOLDS),
            }
        )
        _report(checkpoint.name, name, outputs, photos[-1])

    examples = [_example(checkpoint, model, processor, index, each, tensors) for index, each in enumerate(EXAMPLES)]
    save_tensors(output / f"{checkpoint.name}.safetensors", tensors)
    write_json(
        output / f"{checkpoint.name}.json",
        {
            "made_with": made_with(),
            "checkpoint": checkpoint.name,
            "family": checkpoint.family,
            "tensors": f"{checkpoint.name}.safetensors",
            "image_size": checkpoint.image_size,
            "context": checkpoint.context,
            "queries": [{"text": text, "count": len(tokens(text, verbose=False).input_ids)} for text in QUERIES],
            "photos": photos,
            "examples": examples,
        },
    )


def _example(checkpoint: Checkpoint, model, processor, index: int, example: Example, tensors: dict) -> dict:
    """Runs one image-guided query, keeps its tensors under `example_<index>`, and describes it."""
    x0, y0, x1, y1 = example.crop_xyxy
    crop = read_photo(example.crop_of)[y0:y1, x0:x1]
    target = read_photo(example.target)
    height, width = target.shape[:2]
    crop_values, target_values = (prepare(processor, image)[None] for image in (crop, target))
    feature_map = model.image_embedder(pixel_values=crop_values)[0]
    features = feature_map.flatten(1, 2)
    query_embeds, patch, query_boxes = model.embed_image_query(features, feature_map)
    _require_clear_choice(checkpoint, model, features, query_boxes)
    outputs = model.image_guided_detection(pixel_values=target_values, query_pixel_values=crop_values)

    stem = f"example_{index}"
    for kind, kept in kept_pixels(checkpoint, processor, crop_values[0]).items():
        tensors[f"{stem}/query_{kind}"] = kept
    tensors[f"{stem}/query_pred_boxes"] = outputs.query_pred_boxes[0]
    tensors[f"{stem}/query_embeds"] = query_embeds.reshape(1, -1)
    tensors[f"{stem}/logits"] = outputs.logits[0]
    tensors[f"{stem}/target_pred_boxes"] = outputs.target_pred_boxes[0]
    scores = outputs.logits[0].max(dim=-1).values.sigmoid()
    (found,) = processor.post_process_image_guided_detection(
        outputs, threshold=EXAMPLE_THRESHOLD, nms_threshold=EXAMPLE_NMS, target_sizes=torch.tensor([[height, width]])
    )
    print(
        f"{checkpoint.name}, crop of {example.crop_of} in {example.target}: query patch {patch.item()}, "
        f"scores {scores.min():.3f} to {scores.max():.3f}, {len(found['scores'])} detections"
    )
    corners = torchvision.ops.box_convert(outputs.target_pred_boxes[0], "cxcywh", "xyxy")
    return {
        "crop_of": f"samples/{example.crop_of}",
        "crop_xyxy": list(example.crop_xyxy),
        **photo_record(example.target),
        "tensors": stem,
        "query_patch": patch.item(),
        "threshold": EXAMPLE_THRESHOLD,
        "nms_threshold": EXAMPLE_NMS,
        "detections": [
            {"alpha": alpha, "box": box} for alpha, box in zip(found["scores"].tolist(), found["boxes"].tolist())
        ],
        "near_thresholds": close_decisions(outputs.logits[0], (EXAMPLE_THRESHOLD,)) + _close_overlaps(corners, scores),
    }


def _close_overlaps(boxes_xyxy: torch.Tensor, scores: torch.Tensor) -> list[dict]:
    """Pairs of candidate patches whose box IoU is within `NEAR` of the NMS threshold."""
    overlaps = torchvision.ops.box_iou(boxes_xyxy, boxes_xyxy)
    candidate = scores >= EXAMPLE_THRESHOLD - NEAR
    close = torch.triu((overlaps - EXAMPLE_NMS).abs() < NEAR, diagonal=1) & candidate[:, None] & candidate[None]
    return [
        {"decision": "box_iou", "patches": pair, "value": overlaps[tuple(pair)].item(), "threshold": EXAMPLE_NMS}
        for pair in close.nonzero().tolist()
    ]


def _require_clear_choice(checkpoint: Checkpoint, model, features: torch.Tensor, boxes: torch.Tensor) -> None:
    """Stops when the query patch is chosen by a hair: another implementation might then choose another."""
    if checkpoint.family == "owlv2":
        candidates = model.objectness_predictor(features)[0]
    else:
        corners = torchvision.ops.box_convert(boxes[0], "cxcywh", "xyxy")
        ious = torchvision.ops.box_iou(torch.tensor([[0.0, 0.0, 1.0, 1.0]]), corners)[0]
        ratios = ious / ious.max()
        if ((ratios - 0.8).abs() < NEAR).any():
            raise SystemExit(f"{checkpoint.name}: a box is at 80 % of the best IoU; choose another crop")
        class_embeds = model.class_predictor(features)[1][0]
        candidates = -(class_embeds[ratios >= 0.8] @ class_embeds.mean(dim=0))
    if len(candidates) > 1:
        best, second = candidates.topk(2).values.tolist()
        if best - second < NEAR * max(abs(best), 1):
            raise SystemExit(f"{checkpoint.name}: two patches are equally good as the query; choose another crop")


def _report(checkpoint: str, photo: str, outputs, record: dict) -> None:
    """Prints how far scores and boxes spread; stops when nothing, or everything, is detected."""
    scores = outputs.logits[0].sigmoid()
    best, labels = scores.max(dim=-1)
    sizes = outputs.pred_boxes[0, :, 2:]
    counts = [len(each["detections"]) for each in record["thresholds"]]
    quantiles = np.round(np.quantile(scores.numpy(), [0, 0.1, 0.5, 0.9, 1]), 3)
    print(
        f"{checkpoint}, {photo}: scores {quantiles}, box sides {sizes.min():.3f} to {sizes.max():.3f}, "
        f"{counts} detections of {len(best)}, labels {labels.bincount(minlength=len(QUERIES)).tolist()}, "
        f"{len(record['near_thresholds'])} decisions near a threshold"
    )
    if not 0 < counts[1] < counts[0] < len(best):
        raise SystemExit(f"{checkpoint}, {photo}: the thresholds keep everything or nothing; change the recipe")
