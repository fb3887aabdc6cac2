"""Stage fixtures: every tensor on the way from a photo and its prompts to masks at the photo's size.

One `stages_<architecture>_<photo>.safetensors` holds the tensors, and the `.json` of the same name the prompts and
the final masks.
"""

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from segment_anything import SamPredictor
from segment_anything.modeling import Sam

from fixture_files import coco_rle, made_with, repository_path, write_json
from reference_model import read_rgb

TRANSFORMER_CASES = ("point", "point_and_mask")
"""Cases whose two-way transformer outputs are kept: without and with a mask prompt."""


@dataclass
class Prompt:
    """One prompt, in pixels of the original photo."""

    points: list[list[float]] = field(default_factory=list)
    labels: list[int] = field(default_factory=list)
    """1 foreground, 0 background, -1 padding."""
    box: list[float] | None = None
    """`[x0, y0, x1, y1]`"""


@dataclass
class Case:
    """One call of the predictor: a batch of prompts with the same number of points."""

    name: str
    prompts: list[Prompt]
    multimask: bool = True
    mask_input: tuple[str, int] | None = None
    """Feeds back the low-resolution logits of this earlier case's first prompt, and of this mask."""


def cases_for(width: int, height: int) -> list[Case]:
    """The prompts of a photo: each kind alone, the mixtures, and batches."""

    def at(x: float, y: float) -> list[float]:
        return [round(width * x, 1), round(height * y, 1)]

    center, upper_right, corner = at(0.4, 0.6), at(0.7, 0.2), [10.0, 10.5]
    box = at(0.2, 0.25) + at(0.7, 0.9)
    small_box, edge_box = at(0.1, 0.1) + at(0.3, 0.25), at(0.6, 0.55) + [float(width), float(height)]
    return [
        Case("point", [Prompt([center], [1])]),
        Case("point_single_mask", [Prompt([center], [1])], multimask=False),
        Case("points_positive_negative", [Prompt([center, upper_right, corner], [1, 0, 1])]),
        Case("box", [Prompt(box=box)]),
        Case("box_and_point", [Prompt([center], [0], box)], multimask=False),
        Case("point_and_mask", [Prompt([center], [1])], multimask=False, mask_input=("point", 1)),
        Case("mask_only", [Prompt()], mask_input=("box", 2)),
        Case(
            "batch_of_points",
            [
                Prompt([center, upper_right], [1, 1]),
                Prompt([upper_right, corner], [1, 0]),
                Prompt([corner, [0.0, 0.0]], [1, -1]),  # padded to two points by the caller
            ],
        ),
        Case("batch_of_boxes", [Prompt(box=box), Prompt(box=small_box), Prompt(box=edge_box)], multimask=False),
        Case(
            "batch_of_boxes_and_points",
            [Prompt([center], [1], box), Prompt([upper_right], [0], edge_box)],
            multimask=False,
        ),
    ]


class Recorder:
    """Collects module inputs and outputs by name while a case runs."""

    def __init__(self) -> None:
        self.tensors: dict[str, torch.Tensor] = {}

    def keep(self, name: str, value: torch.Tensor) -> None:
        self.tensors[name] = value.detach().clone().contiguous()

    def watch_encoder(self, sam: Sam) -> list:
        encoder = sam.image_encoder
        first = encoder.blocks[0]
        hooks = [first.register_forward_pre_hook(lambda _, args: self.keep("encoder/patches", args[0][0]))]
        for index, block in enumerate(encoder.blocks):
            name = f"encoder/block_{index}"
            hooks.append(block.register_forward_hook(lambda *args, name=name: self.keep(name, args[2][0])))
        return hooks

    def watch_prompts(self, sam: Sam, case: Case, keep_transformer: bool) -> list:
        def prompt_encoder(_, __, output):
            if output[0].numel() > 0:
                self.keep(f"{case.name}/sparse", output[0])
            if case.mask_input is not None:
                self.keep(f"{case.name}/dense", output[1])

        def transformer(_, __, output):
            self.keep(f"{case.name}/transformer_tokens", output[0])
            self.keep(f"{case.name}/transformer_image", output[1])

        hooks = [sam.prompt_encoder.register_forward_hook(prompt_encoder)]
        if keep_transformer:
            hooks.append(sam.mask_decoder.transformer.register_forward_hook(transformer))
        return hooks


def run_case(predictor: SamPredictor, case: Case, mask_input: torch.Tensor | None):
    """Runs `predict_torch` as `SamAutomaticMaskGenerator` does: coordinates are scaled in f64, then encoded."""
    transform, original = predictor.transform, predictor.original_size
    points = labels = boxes = None
    if case.prompts[0].points:
        points = torch.as_tensor(transform.apply_coords(np.array([p.points for p in case.prompts]), original))
        labels = torch.tensor([p.labels for p in case.prompts], dtype=torch.int)
    if case.prompts[0].box is not None:
        boxes = torch.as_tensor(transform.apply_boxes(np.array([p.box for p in case.prompts]), original))
    return predictor.predict_torch(points, labels, boxes, mask_input, case.multimask, return_logits=True)


def write_stages(
    sam: Sam,
    architecture: str,
    checkpoint: Path,
    photo: Path,
    folder: Path,
    *,
    keep_between: bool,
    only_cases: tuple[str, ...] | None = None,
) -> None:
    """Writes the tensors and prompts of one photo.

    `keep_between` adds the resized photo and the tensors between the layers; `only_cases` leaves the other cases out.
    """
    image = read_rgb(photo)
    height, width = image.shape[:2]
    predictor = SamPredictor(sam)
    recorder = Recorder()

    hooks = recorder.watch_encoder(sam) if keep_between else []
    predictor.set_image(image)
    for hook in hooks:
        hook.remove()
    resized = predictor.transform.apply_image(image)
    recorder.keep("image_embedding", predictor.features[0])
    if keep_between:
        recorder.keep("input_image", torch.from_numpy(resized))
        recorder.keep("dense_pe", sam.prompt_encoder.get_dense_pe()[0])

    described = []
    for case in cases_for(width, height):
        if only_cases is not None and case.name not in only_cases:
            continue
        mask_input = None
        if case.mask_input is not None:
            source, index = case.mask_input
            mask_input = recorder.tensors[f"{source}/low_res_logits"][:1, index : index + 1]
        hooks = recorder.watch_prompts(sam, case, keep_transformer=keep_between and case.name in TRANSFORMER_CASES)
        logits, iou_predictions, low_res_logits = run_case(predictor, case, mask_input)
        for hook in hooks:
            hook.remove()
        recorder.keep(f"{case.name}/low_res_logits", low_res_logits)
        recorder.keep(f"{case.name}/iou_predictions", iou_predictions)
        masks = (logits > sam.mask_threshold).numpy()
        described.append(
            {
                "name": case.name,
                "multimask": case.multimask,
                "mask_input": None if case.mask_input is None else dict(zip(("case", "mask"), case.mask_input)),
                "prompts": [{"points": p.points, "labels": p.labels, "box": p.box} for p in case.prompts],
                "masks": [[{"area": int(m.sum()), "segmentation": coco_rle(m)} for m in prompt] for prompt in masks],
            }
        )

    stem = f"stages_{architecture}_{photo.stem}"
    save_file(recorder.tensors, folder / f"{stem}.safetensors")
    (folder / f"{stem}.safetensors").chmod(0o644)  # save_file makes it private
    write_json(
        folder / f"{stem}.json",
        {
            "made_with": made_with(),
            "architecture": architecture,
            "checkpoint": repository_path(checkpoint),
            "image": repository_path(photo),
            "tensors": f"{stem}.safetensors",
            "original_size": {"height": height, "width": width},
            "input_size": {"height": resized.shape[0], "width": resized.shape[1]},
            "image_size": sam.image_encoder.img_size,
            "cases": described,
        },
    )
