"""Automatic-mask fixtures: `SamAutomaticMaskGenerator` over photos and settings, and how close its decisions were.

One `amg_<photo>.json` holds, per setting, the masks in the reference's order and the decisions that fell within
`NEAR` of a threshold: the first suspects when another implementation keeps other masks.
"""

from dataclasses import asdict, dataclass
from pathlib import Path
from unittest.mock import patch

import numpy as np
import torch
import torchvision.ops
from segment_anything import SamAutomaticMaskGenerator, automatic_mask_generator
from segment_anything.modeling import Sam

from fixture_files import made_with, repository_path, write_json
from reference_model import read_rgb

NEAR = 1e-3


@dataclass(frozen=True)
class Settings:
    """Arguments of `SamAutomaticMaskGenerator` under its own names, and `multimask_output`."""

    points_per_side: int = 16
    points_per_batch: int = 64
    pred_iou_thresh: float = 0.88
    stability_score_thresh: float = 0.95
    stability_score_offset: float = 1.0
    box_nms_thresh: float = 0.7
    crop_n_layers: int = 0
    crop_nms_thresh: float = 0.7
    crop_overlap_ratio: float = 512 / 1500
    crop_n_points_downscale_factor: int = 1
    min_mask_region_area: int = 0
    multimask_output: bool = True
    """The reference's generator always asks for three masks; `False` asks the same predictor for one."""


AMG_PHOTOS = ("cat.png", "coffee.png", "dogs.png", "fig.png")

AMG_SETTINGS = {
    "default": Settings(points_per_side=32),
    "crops_1": Settings(crop_n_layers=1, crop_n_points_downscale_factor=2),
    "crops_2": Settings(crop_n_layers=2, crop_n_points_downscale_factor=2),
    "small_regions": Settings(min_mask_region_area=100),
    "loose": Settings(pred_iou_thresh=0.7, stability_score_thresh=0.85, box_nms_thresh=0.9),
    "tight": Settings(points_per_side=32, pred_iou_thresh=0.9, stability_score_thresh=0.96, box_nms_thresh=0.5),
    "single_mask": Settings(multimask_output=False),
}


class ObservedGenerator(SamAutomaticMaskGenerator):
    """The reference's generator, noting every decision within `NEAR` of its threshold.

    The masks are the reference's own: the observers only read what passes by.
    """

    def __init__(self, sam: Sam, settings: Settings):
        arguments = asdict(settings)
        multimask = arguments.pop("multimask_output")
        super().__init__(sam, output_mode="coco_rle", **arguments)
        self.near_thresholds: list[dict] = []
        self._crop_box = None
        self._candidates: list[dict] = []

        predict_torch = self.predictor.predict_torch

        def observed_predict(points, labels, multimask_output, return_logits):
            masks, iou, low_res = predict_torch(
                points, labels, multimask_output=multimask and multimask_output, return_logits=return_logits
            )
            self._observe_predicted_iou(iou)
            return masks, iou, low_res

        self.predictor.predict_torch = observed_predict

    def generate(self, image: np.ndarray) -> list[dict]:
        stability = automatic_mask_generator.calculate_stability_score
        nms = automatic_mask_generator.batched_nms

        def observed_stability(masks, mask_threshold, threshold_offset):
            scores = stability(masks, mask_threshold, threshold_offset)
            self._observe_stability(scores)
            return scores

        def observed_nms(boxes, scores, idxs, iou_threshold):
            self._observe_nms(boxes, iou_threshold)
            return nms(boxes, scores, idxs, iou_threshold)

        with (
            patch.object(automatic_mask_generator, "calculate_stability_score", observed_stability),
            patch.object(automatic_mask_generator, "batched_nms", observed_nms),
        ):
            return super().generate(image)

    def _process_crop(self, image, crop_box, crop_layer_idx, orig_size):
        self._crop_box = crop_box
        data = super()._process_crop(image, crop_box, crop_layer_idx, orig_size)
        self._crop_box = None  # what follows is decided between crops
        return data

    def _process_batch(self, points, im_size, crop_box, orig_size):
        self._points = points + np.array(crop_box[:2])
        return super()._process_batch(points, im_size, crop_box, orig_size)

    def _observe_predicted_iou(self, iou: torch.Tensor) -> None:
        """`iou` is `[points, masks]`. Remembers which candidates go on to the stability score."""
        self._candidates = []
        for point, scores in zip(self._points.tolist(), iou.tolist()):
            for mask, score in enumerate(scores):
                candidate = {"point": point, "mask": mask}
                self._note("predicted_iou", score, self.pred_iou_thresh, candidate)
                if score > self.pred_iou_thresh:
                    self._candidates.append(candidate)

    def _observe_stability(self, scores: torch.Tensor) -> None:
        for candidate, score in zip(self._candidates, scores.tolist(), strict=True):
            self._note("stability_score", score, self.stability_score_thresh, candidate)

    def _observe_nms(self, boxes: torch.Tensor, threshold: float) -> None:
        """`boxes` are `[n, 4]` XYXY in the crop's frame, or in the image's between crops."""
        offset = torch.tensor([*self._crop_box[:2]] * 2) if self._crop_box else torch.zeros(4)
        overlaps = torchvision.ops.box_iou(boxes, boxes)
        near = torch.triu((overlaps - threshold).abs() < NEAR, diagonal=1)
        for first, second in near.nonzero().tolist():
            pair = [[int(v) for v in boxes[i] + offset] for i in (first, second)]
            self._note("box_iou", overlaps[first, second].item(), threshold, {"boxes_xyxy": pair})

    def _note(self, decision: str, value: float, threshold: float, where: dict) -> None:
        if abs(value - threshold) < NEAR:
            crop = list(self._crop_box) if self._crop_box else None
            note = {"decision": decision, "value": value, "threshold": threshold, "crop_xyxy": crop, **where}
            if note not in self.near_thresholds:
                self.near_thresholds.append(note)


def _record(annotation: dict) -> dict:
    """The reference's annotation; `bbox` as integers, which it is except after an empty point batch."""
    x, y, w, h = annotation["bbox"]
    return annotation | {"area": int(annotation["area"]), "bbox": [int(x), int(y), int(w), int(h)]}


def write_automatic_masks(
    sam: Sam, checkpoint: Path, photo: Path, settings: dict[str, Settings], folder: Path
) -> None:
    """Writes `amg_<photo>.json`, with every setting."""
    image = read_rgb(photo)
    cases = []
    for name, values in settings.items():
        generator = ObservedGenerator(sam, values)
        masks = [_record(annotation) for annotation in generator.generate(image)]
        if not masks:
            raise SystemExit(f"{photo.name}, {name}: no masks, so the case would test nothing; change its settings")
        near = len(generator.near_thresholds)
        print(f"{photo.name}, {name}: {len(masks)} masks, {near} decisions near a threshold")
        cases.append(
            {
                "name": name,
                "settings": asdict(values),
                "masks": masks,
                "near_thresholds": generator.near_thresholds,
            }
        )
    write_json(
        folder / f"amg_{photo.stem}.json",
        {
            "made_with": made_with(),
            "checkpoint": repository_path(checkpoint),
            "image": repository_path(photo),
            "height": image.shape[0],
            "width": image.shape[1],
            "cases": cases,
        },
    )
