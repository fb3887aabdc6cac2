"""Writes expected.json: what the reference packages compute for the inputs of tests/reference.rs.

    pip install torch torchvision opencv-python-headless pycocotools segment-anything==1.0
    python crates/masks/tests/generate_expected.py

The packages' versions are recorded in the file. Floats are written with repr, so they round-trip. Masks are drawn as rows
of '#' and '.' joined by '/'.
"""

import json
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
import torchvision
from pycocotools import mask as coco
from segment_anything.utils import amg

rng = np.random.default_rng(20230405)


def draw(mask):
    return "/".join("".join("#" if v else "." for v in row) for row in np.asarray(mask))


def floats(array):
    """f32 values as short decimals that parse back to the same f32."""
    return [float(str(v)) for v in np.asarray(array, dtype=np.float32).ravel()]


def blobs(height, width, cell, density):
    """A random mask of connected shapes rather than dust."""
    coarse = rng.random((height // cell + 1, width // cell + 1)) < density
    return np.kron(coarse, np.ones((cell, cell), dtype=bool))[:height, :width]


def point_grids():
    return [
        {
            "points_per_side": n,
            "layers": layers,
            "factor": factor,
            # One side of each grid is enough: y of every row of points.
            "sides": [g[:: max(int(len(g) ** 0.5), 1), 1].tolist() for g in grids],
            "lengths": [len(g) for g in grids],
            "last_two": grids[0][-2:].tolist(),
        }
        for n, layers, factor in [(32, 2, 2), (14, 0, 1), (10, 1, 3), (1, 0, 1), (33, 1, 2)]
        for grids in [amg.build_all_layer_point_grids(n, layers, factor)]
    ]


def crops():
    cases = []
    for height, width, layers, ratio in [
        (683, 1024, 2, 512 / 1500),
        (1501, 977, 3, 512 / 1500),
        (10, 7, 2, 0.5),
        (427, 640, 1, 0.0),
        (99, 100, 2, 0.1),
    ]:
        boxes, layer_of = amg.generate_crop_boxes((height, width), layers, ratio)
        cases.append({"size": [height, width], "layers": layers, "ratio": ratio, "boxes": boxes, "layer_of": layer_of})
    return cases


def crop_edges():
    height, width = 300, 430
    cases = []
    for crop in [[0, 0, 430, 300], [0, 0, 250, 180], [180, 0, 430, 180], [180, 120, 430, 300]]:
        w, h = crop[2] - crop[0], crop[3] - crop[1]
        for _ in range(12):
            # Corners about 20 pixels from an edge, in the crop's frame, inclusive maxima.
            x0, y0 = int(rng.integers(14, 28)), int(rng.integers(14, 28))
            x1, y1 = w - int(rng.integers(14, 28)), h - int(rng.integers(14, 28))
            x0, y0 = (0 if rng.random() < 0.2 else x0), (0 if rng.random() < 0.2 else y0)
            box = [x0, y0, x1, y1]
            near = amg.is_box_near_crop_edge(torch.tensor([box]), crop, [0, 0, width, height])
            cases.append({"crop": crop, "box_inclusive": box, "near": bool(near[0])})
    return {"size": [height, width], "cases": cases}


def upscaled():
    """Sam.postprocess_masks, whose module cannot be called without a model."""
    cases = []
    for low, side, input_size, original in [
        ((4, 4), 16, (11, 16), (19, 27)),
        ((5, 5), 20, (20, 13), (31, 23)),
        ((4, 4), 16, (3, 16), (5, 131)),  # large enough for PyTorch's other kernel
        ((6, 6), 24, (17, 24), (9, 13)),
        ((3, 7), 14, (14, 9), (14, 9)),
        ((1, 1), 4, (4, 1), (9, 2)),
    ]:
        logits = np.round(rng.standard_normal(low) * 8, 3).astype(np.float32)
        masks = torch.from_numpy(logits)[None, None]
        masks = F.interpolate(masks, (side, side), mode="bilinear", align_corners=False)
        masks = masks[..., : input_size[0], : input_size[1]]
        masks = F.interpolate(masks, original, mode="bilinear", align_corners=False)
        # The reference's stability score takes the place of counts.
        score = float(amg.calculate_stability_score(masks, 0.0, 1.0)[0, 0])
        binary = (masks > 0.0)[0]
        cases.append(
            {
                "low_res_size": low,
                "model_side": side,
                "input": input_size,
                "original": original,
                "low_res": floats(logits),
                "logits": floats(masks),
                "stability_score": None if np.isnan(score) else score,
                "rle": amg.mask_to_rle_pytorch(binary)[0]["counts"],
                "box_inclusive": amg.batched_mask_to_box(binary)[0].tolist(),
            }
        )
    return cases


def run_lengths():
    masks = [np.zeros((3, 5), bool), np.ones((4, 2), bool)]
    masks += [rng.random(shape) < p for shape, p in [((5, 7), 0.5), ((9, 4), 0.2), ((1, 12), 0.5), ((13, 1), 0.5)]]
    masks += [blobs(23, 37, 5, 0.4), blobs(40, 26, 9, 0.6)]
    cases = []
    for mask in masks:
        counts = amg.mask_to_rle_pytorch(torch.from_numpy(mask)[None])[0]
        rle = amg.coco_encode_rle(counts)
        box = amg.batched_mask_to_box(torch.from_numpy(mask)[None])[0]
        cases.append(
            {
                "mask": draw(mask),
                "counts": counts["counts"],
                "string": rle["counts"],
                "area": int(coco.area(rle)),
                "box_xywh": [int(v) for v in coco.toBbox(rle)],
                "box_inclusive": box.tolist(),
                "bbox": amg.box_xyxy_to_xywh(box).tolist(),
            }
        )
    return cases


def long_strings():
    """Counts as of photos, whose runs take several characters."""
    cases = []
    for height, width, runs in [(1500, 2250, 40), (4000, 6000, 25), (60000, 60000, 12)]:
        cuts = np.sort(rng.integers(1, height * width, runs))
        counts = np.diff(np.concatenate([[0], cuts, [height * width]])).tolist()
        string = amg.coco_encode_rle({"size": [height, width], "counts": counts})["counts"]
        cases.append({"size": [height, width], "counts": counts, "string": string})
    return cases


def pairs():
    cases = []
    for shape in [(12, 17), (20, 9)]:
        for _ in range(4):
            a, b = blobs(*shape, 4, 0.5), blobs(*shape, 3, 0.5)
            rles = [coco.encode(np.asfortranarray(m.astype(np.uint8))) for m in (a, b)]
            cases.append(
                {
                    "left": draw(a),
                    "right": draw(b),
                    "iou": float(coco.iou(rles[:1], rles[1:], [0])[0, 0]),
                    # With iscrowd, pycocotools divides by the area of the first mask.
                    "containment": float(coco.iou(rles[:1], rles[1:], [1])[0, 0]),
                    "union": coco.merge(rles)["counts"].decode(),
                    "intersection": coco.merge(rles, intersect=True)["counts"].decode(),
                }
            )
    return cases


def uncropped():
    cases = []
    for crop, size in [([3, 2, 12, 9], (11, 15)), ([0, 0, 6, 5], (5, 6)), ([0, 4, 6, 9], (9, 6)), ([2, 0, 6, 9], (9, 8))]:
        mask = torch.from_numpy(blobs(crop[3] - crop[1], crop[2] - crop[0], 2, 0.6))
        placed = amg.uncrop_masks(mask[None], crop, *size)
        cases.append(
            {
                "mask": draw(mask),
                "crop": crop,
                "size": size,
                "counts": amg.mask_to_rle_pytorch(placed)[0]["counts"],
            }
        )
    return cases


def suppressed():
    cases = []
    for count, side, threshold in [(40, 12, 0.7), (60, 8, 0.5), (40, 6, 0.0), (25, 30, 1 / 3), (30, 5, 0.25)]:
        corner = rng.integers(0, side, (count, 2))
        boxes = np.concatenate([corner, corner + rng.integers(0, side, (count, 2))], axis=1)
        scores = rng.integers(0, 8, count) / 8  # with ties
        boxes, scores = boxes.astype(np.float32), scores.astype(np.float32)
        keep = torchvision.ops.batched_nms(
            torch.from_numpy(boxes), torch.from_numpy(scores), torch.zeros(count), iou_threshold=threshold
        )
        cases.append(
            {
                "boxes": boxes.astype(int).tolist(),
                "scores": scores.tolist(),
                "threshold": threshold,
                "keep": keep.tolist(),
            }
        )
    return cases


def nan_order():
    """Boxes far apart come back in the order of torch.sort; null stands for NaN, which JSON lacks."""
    scores = [0.5, None, 0.0, -0.0, 1.0, None, -1.0, 0.5]
    boxes = torch.tensor([[i * 10.0, 0.0, i * 10 + 5.0, 5.0] for i in range(len(scores))])
    numbers = torch.tensor([float("nan") if s is None else s for s in scores])
    return {"scores": scores, "keep": torchvision.ops.nms(boxes, numbers, 0.5).tolist()}


def regions():
    cases = []
    for height, width, density in [(9, 14, 0.3), (13, 8, 0.3), (10, 15, 0.5), (12, 11, 0.7), (7, 19, 0.15), (15, 10, 0.85)]:
        mask = rng.random((height, width)) < density
        for threshold in [0, 2, 4, 100]:
            case = {"mask": draw(mask), "threshold": threshold}
            for mode in ["holes", "islands"]:
                cleaned, changed = amg.remove_small_regions(mask, threshold, mode)
                case[mode] = {"mask": draw(cleaned), "changed": changed}
            cases.append(case)
    return cases


def thresholds():
    """How PyTorch compares f32 tensors with Python numbers."""
    cases = []
    for threshold in [0.88, 0.95, 0.7, 0.5, 1 / 3]:
        at = np.float32(threshold)
        for score in [np.nextafter(at, np.float32(0)), at, np.nextafter(at, np.float32(1))]:
            tensor = torch.tensor([score])
            cases.append(
                {
                    "score": float(score),
                    "threshold": threshold,
                    "greater": bool((tensor > threshold)[0]),
                    "greater_or_equal": bool((tensor >= threshold)[0]),
                }
            )
    return cases


expected = {
    "versions": {
        name: version(name)
        for name in ["torch", "torchvision", "opencv-python-headless", "pycocotools", "segment-anything", "numpy"]
    },
    "point_grids": point_grids(),
    "crops": crops(),
    "crop_edges": crop_edges(),
    "upscaled": upscaled(),
    "run_lengths": run_lengths(),
    "long_strings": long_strings(),
    "pairs": pairs(),
    "uncropped": uncropped(),
    "suppressed": suppressed(),
    "nan_order": nan_order(),
    "regions": regions(),
    "thresholds": thresholds(),
}
parts = [f"{json.dumps(name)}: {json.dumps(value, separators=(',', ':'), allow_nan=False)}" for name, value in expected.items()]
Path(__file__).with_name("expected.json").write_text("{\n" + ",\n".join(parts) + "\n}\n")
