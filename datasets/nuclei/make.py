#!/usr/bin/env python3
"""Makes the small nuclei set (COCO format) from a checkout of the corrected
stage1_train folder of the 2018 Data Science Bowl (BBBC038, CC0 1.0).

  python make.py SRC OUT    SRC holds stage1_train/<id>/{images,masks}/*.png

Needs numpy and pillow only. See LICENCE.txt for the origin and licence.
"""
import json
import os
import sys

import numpy as np
from PIL import Image

# First six hex digits of each chosen original image's id, by kind.
SPLITS = {
    "train": "0d3640 224687 33a5b0 45f059 52a6b8 65c852 6ab24e 709e09 a5fe0b "
             "ae570a cbca32 6c67b7 "                      # purple tissue
             "00ae65 c0f172 ea94ba 7f5567 "               # purple on white
             "57bd02 87ea72 "                             # pink and purple (H&E)
             "2f929b 4d4ebf 0287e7 5b2ccf 648636 "        # fluorescence, 256x256
             "06c779 797881 1bd0f2 "                      # fluorescence, 360x360
             "449a9c 212b85 4e1c88 "                      # fluorescence, 696x520
             "9ebcfa",                                    # fluorescence, 320x256
    "val": "853a4c a31dea 7798ca ebc188 b21480 610f32 8f27eb "
           "245b99 c3bec1 ff599c 8c3ef7 d256b3",
}
CROP = 384      # images with a longer side are cropped to this, centred
MIN_AREA = 10   # instances left with fewer pixels are dropped
QUALITY = 92    # JPEG quality of the colour images


def rle(mask):
    """COCO uncompressed RLE: column-major runs, the first run being zeros."""
    flat = mask.flatten(order="F").astype(np.int8)
    edges = np.flatnonzero(np.diff(flat)) + 1
    bounds = np.concatenate(([0], edges, [flat.size]))
    counts = np.diff(bounds).tolist()
    return [0] + counts if flat[0] else counts


def window(width, height):
    w, h = min(width, CROP), min(height, CROP)
    if max(width, height) <= CROP:
        w, h = width, height
    return (width - w) // 2, (height - h) // 2, w, h


def main(src, out):
    root = os.path.join(src, "stage1_train")
    ids = sorted(os.listdir(root))
    os.makedirs(os.path.join(out, "images"), exist_ok=True)
    sources = ["split\tfile_name\tDSB2018 stage1_train id\tcrop x,y,w,h\tinstances"]
    image_id = ann_id = 0
    for split, prefixes in SPLITS.items():
        images, annotations = [], []
        for prefix in prefixes.split():
            (full,) = [i for i in ids if i.startswith(prefix)]
            folder = os.path.join(root, full)
            rgb = Image.open(os.path.join(folder, "images", full + ".png")).convert("RGB")
            x0, y0, w, h = window(*rgb.size)
            rgb = rgb.crop((x0, y0, x0 + w, y0 + h))
            px = np.asarray(rgb).astype(int)
            image_id += 1
            if (px.max(axis=2) - px.min(axis=2)).max() < 8:
                name = full[:12] + ".png"
                Image.fromarray(px[..., 0].astype(np.uint8)).save(
                    os.path.join(out, "images", name), optimize=True)
            else:
                name = full[:12] + ".jpg"
                rgb.save(os.path.join(out, "images", name), quality=QUALITY,
                         subsampling=0, optimize=True)
            taken = np.zeros((h, w), bool)
            first = ann_id
            for m in sorted(os.listdir(os.path.join(folder, "masks"))):
                mask = np.asarray(Image.open(os.path.join(folder, "masks", m)).convert("L")) > 127
                mask = mask[y0:y0 + h, x0:x0 + w]
                assert mask.shape == (h, w), (full, m, mask.shape)
                mask = mask & ~taken    # the data set's rule: masks do not overlap
                area = int(mask.sum())
                if area < MIN_AREA:
                    continue
                taken |= mask
                ys, xs = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
                ann_id += 1
                annotations.append({
                    "id": ann_id, "image_id": image_id, "category_id": 1,
                    "segmentation": {"size": [h, w], "counts": rle(mask)},
                    "bbox": [int(xs[0]), int(ys[0]), int(xs[-1] - xs[0] + 1), int(ys[-1] - ys[0] + 1)],
                    "area": area, "iscrowd": 0})
            images.append({"id": image_id, "file_name": name, "width": w, "height": h})
            sources.append(f"{split}\t{name}\t{full}\t{x0},{y0},{w},{h}\t{ann_id - first}")
        with open(os.path.join(out, split + ".json"), "w") as f:
            json.dump({"images": images, "annotations": annotations,
                       "categories": [{"id": 1, "name": "nucleus"}]}, f, separators=(",", ":"))
            f.write("\n")
    with open(os.path.join(out, "sources.tsv"), "w") as f:
        f.write("\n".join(sources) + "\n")


if __name__ == "__main__":
    main(*sys.argv[1:3])
