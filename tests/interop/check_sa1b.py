"""Checks exported SA-1B JSON files with pycocotools.

    python check_sa1b.py DIR

Exits with 0 when every `*.json` below DIR has SA-1B's keys and every mask decodes to its area and box, else with 1.
"""

import json
import sys
from pathlib import Path

from coco_masks import mask_problems, report

IMAGE_KEYS = {"image_id", "width", "height", "file_name"}
ANNOTATION_KEYS = {
    "id",
    "segmentation",
    "bbox",
    "area",
    "predicted_iou",
    "stability_score",
    "crop_box",
    "point_coords",
}


def document_problems(document) -> list[str]:
    """Everything wrong with one parsed file."""
    if not isinstance(document, dict) or not {"image", "annotations"} <= document.keys():
        return ["is not an object with `image` and `annotations`"]
    image = document["image"]
    missing = IMAGE_KEYS - image.keys()
    if missing:
        return [f"image lacks {sorted(missing)}"]
    problems = []
    seen = set()
    for index, annotation in enumerate(document["annotations"]):
        where = f"annotation {index}"
        missing = ANNOTATION_KEYS - annotation.keys()
        if missing:
            problems.append(f"{where} lacks {sorted(missing)}")
            continue
        if annotation["id"] in seen:
            problems.append(f"{where} repeats id {annotation['id']}")
        seen.add(annotation["id"])
        if not all(isinstance(n, int) for n in [annotation["area"], *annotation["bbox"], *annotation["crop_box"]]):
            problems.append(f"{where}: area, bbox and crop_box must be integers")
        if not annotation["point_coords"] or any(len(point) != 2 for point in annotation["point_coords"]):
            problems.append(f"{where}: point_coords must be a list of [x, y]")
        rle = annotation["segmentation"]
        if list(rle["size"]) != [image["height"], image["width"]]:
            problems.append(f"{where}: size {rle['size']} is not the image's {[image['height'], image['width']]}")
        found = mask_problems(rle["size"], rle["counts"], annotation["area"], annotation["bbox"])
        problems += [f"{where}: {problem}" for problem in found]
    return problems


def main() -> int:
    if len(sys.argv) != 2:
        print("usage: python check_sa1b.py DIR", file=sys.stderr)
        return 2
    folder = Path(sys.argv[1])
    files = sorted(folder.rglob("*.json"))
    if not files:
        print(f"check_sa1b: no .json files below {folder}")
        return 1
    problems = []
    masks = 0
    for path in files:
        try:
            document = json.loads(path.read_text(encoding="utf-8"))
        except ValueError as error:
            problems.append(f"{path.relative_to(folder)}: is not JSON: {error}")
            continue
        problems += [f"{path.relative_to(folder)}: {problem}" for problem in document_problems(document)]
        if isinstance(document, dict):
            masks += len(document.get("annotations", []))
    if masks == 0 and not problems:
        problems.append("no file has an annotation, so nothing was checked")
    return report("check_sa1b", f"{len(files)} files, {masks} masks", problems)


if __name__ == "__main__":
    sys.exit(main())
