"""Writes polygons.json: the masks that pycocotools draws of polygons, for src/polygon.rs.

    pip install numpy pycocotools
    python crates/examples/tests/generate_polygons.py

The versions are recorded in the file. Coordinates have two decimals, as COCO's annotations do; halves and fifths, where
rounding decides, are frequent among them.
"""

import json
from importlib.metadata import version
from pathlib import Path

import numpy as np
from pycocotools import mask as coco

rng = np.random.default_rng(20140501)


def corners(height, width):
    """A polygon of one of several kinds, `[x, y, x, y, ..]`."""
    count = int(rng.integers(3, 12))
    kind = rng.integers(0, 6)
    if kind == 0:  # anything, self-intersecting as a rule
        points = rng.uniform(0, 1, (count, 2)) * [width, height]
    elif kind == 1:  # beyond the image on all sides
        points = rng.uniform(-0.5, 1.5, (count, 2)) * [width, height]
    elif kind == 2:  # a star: concave, but simple
        angles = np.sort(rng.uniform(0, 2 * np.pi, count))
        radii = rng.uniform(0.1, 0.5, count)
        points = 0.5 + radii[:, None] * np.stack([np.cos(angles), np.sin(angles)], 1)
        points = points * [width, height]
    elif kind == 3:  # fifths and halves of pixels
        points = rng.integers(-5, [5 * width + 5, 5 * height + 5], (count, 2)) / 5
        points = points + rng.choice([0, 0.1, 0.5], (count, 2))
    elif kind == 4:  # whole pixels, with repeated corners
        points = rng.integers(0, [width + 1, height + 1], (count, 2)).astype(float)
        points[-1] = points[0]
    else:  # hardly larger than a pixel
        points = rng.uniform(0, 1, 2) * [width, height] + rng.uniform(-1, 1, (count, 2))
    return [round(float(value), 2) for value in points.ravel()]


cases = []
for number in range(400):
    height, width = (int(side) for side in rng.integers(1, 40, 2))
    polygons = [corners(height, width) for _ in range(1 + number % 3)]
    rle = coco.merge(coco.frPyObjects(polygons, height, width))
    cases.append({"size": [height, width], "polygons": polygons, "counts": rle["counts"].decode()})

out = {"versions": {name: version(name) for name in ("numpy", "pycocotools")}, "cases": cases}
lines = ",\n".join(json.dumps(case) for case in cases)
text = f'{{"versions": {json.dumps(out["versions"])}, "cases": [\n{lines}\n]}}\n'
Path(__file__).with_name("polygons.json").write_text(text)
