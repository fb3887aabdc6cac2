"""Opens maskmill's output with Polars, DuckDB, pandas and pycocotools, as a user would.

    python check_readers.py OUTPUT_DIR

Exits with 0 when all readers see the same rows and columns, the mask rows and image rows agree with each other, and
pycocotools decodes every mask to its area and box; else prints what is wrong and exits with 1.
"""

import sys
from collections import Counter
from pathlib import Path

import duckdb
import pandas
import polars
import pyarrow.parquet

from coco_masks import mask_problems, report

MASK_COLUMNS = [
    "image_key",
    "mask_id",
    "rle",
    "bbox",
    "area",
    "predicted_iou",
    "stability_score",
    "crop_box",
    "point_coords",
    "label",
    "label_score",
    "prompt_box",
]
NULLABLE_MASK_COLUMNS = {"label", "label_score", "prompt_box"}
IMAGE_COLUMNS = [
    "image_key",
    "shard",
    "width",
    "height",
    "sha256",
    "bytes",
    "format",
    "exif_orientation",
    "masks",
    "status",
    "reason",
    "detail",
    "milliseconds",
    "caption",
    "boxes",
]
REQUIRED_IMAGE_COLUMNS = {"image_key", "shard", "masks", "status"}


class Table:
    """One kind of part files, read whole by each reader."""

    def __init__(self, output: Path, name: str, columns: list[str]):
        self.name = name
        self.columns = columns
        self.files = sorted((output / name).glob("part-*.parquet"))
        if not self.files:
            raise SystemExit(f"check_readers: no part-*.parquet in {output / name}")
        schema = pyarrow.parquet.read_schema(self.files[0])
        for path in self.files[1:]:
            if not pyarrow.parquet.read_schema(path).equals(schema):
                raise SystemExit(f"check_readers: {path} has another schema than {self.files[0]}")
        self.polars = polars.concat([polars.read_parquet(path) for path in self.files])
        self.pandas = pandas.concat([pandas.read_parquet(path) for path in self.files], ignore_index=True)
        self.duckdb = duckdb.read_parquet([str(path) for path in self.files])

    def problems(self) -> list[str]:
        """Columns and row counts, which must be the same for every reader."""
        problems = []
        seen = {
            "Polars": (self.polars.columns, self.polars.height),
            "pandas": (list(self.pandas.columns), len(self.pandas)),
            "DuckDB": (self.duckdb.columns, len(self.duckdb.project("1").fetchall())),
        }
        for reader, (columns, _) in seen.items():
            if columns != self.columns:
                lacking = sorted(set(self.columns) - set(columns))
                extra = sorted(set(columns) - set(self.columns))
                problems.append(
                    f"{reader} sees other columns in {self.name}: lacking {lacking}, unexpected {extra}, "
                    f"in the order {columns}"
                )
        rows = {reader: count for reader, (_, count) in seen.items()}
        if len(set(rows.values())) != 1:
            problems.append(f"readers disagree on the rows of {self.name}: {rows}")
        return problems

    def null_problems(self, required: set[str]) -> list[str]:
        """Nulls in columns that never have any."""
        counts = {column: self.polars[column].null_count() for column in self.columns if column in required}
        return [f"{self.name}.{column} is null in {count} rows" for column, count in counts.items() if count]


def value_problems(masks: Table) -> list[str]:
    """The nested and numeric values of every mask, row by row, between the three readers."""
    by_duckdb = masks.duckdb.project(
        "image_key, mask_id, rle.size, rle.counts, bbox, area, crop_box, point_coords, predicted_iou, stability_score, "
        "label, label_score, prompt_box"
    ).fetchall()
    by_polars = [
        (
            row["image_key"],
            row["mask_id"],
            row["rle"]["size"],
            row["rle"]["counts"],
            row["bbox"],
            row["area"],
            row["crop_box"],
            row["point_coords"],
            row["predicted_iou"],
            row["stability_score"],
            row["label"],
            row["label_score"],
            row["prompt_box"],
        )
        for row in masks.polars.iter_rows(named=True)
    ]
    by_pandas = [
        (
            row.image_key,
            row.mask_id,
            list(row.rle["size"]),
            row.rle["counts"],
            list(row.bbox),
            row.area,
            list(row.crop_box),
            [list(point) for point in row.point_coords],
            row.predicted_iou,
            row.stability_score,
            # pandas has NaN and None for what is null.
            row.label if isinstance(row.label, str) else None,
            None if pandas.isna(row.label_score) else row.label_score,
            None if row.prompt_box is None else list(row.prompt_box),
        )
        for row in masks.pandas.itertuples()
    ]
    problems = []
    readings = zip(sorted(by_polars, key=_row), sorted(by_duckdb, key=_row), sorted(by_pandas, key=_row))
    for first, second, third in readings:
        # DuckDB reads fixed-size lists as tuples: compare both as lists.
        if not (_as_lists(first) == _as_lists(second) == _as_lists(third)):
            problems.append(f"a mask reads differently: Polars {first}, DuckDB {second}, pandas {third}")
    return problems


def _row(mask: tuple) -> tuple:
    return mask[:2]  # image_key, mask_id


def _as_lists(value):
    return [_as_lists(item) for item in value] if isinstance(value, list | tuple) else value


def row_problems(masks: Table, images: Table) -> list[str]:
    """Mask rows against image rows, and against pycocotools."""
    problems = []
    sizes = {row["image_key"]: [row["height"], row["width"]] for row in images.polars.iter_rows(named=True)}
    found, ids = Counter(), set()
    for row in masks.polars.iter_rows(named=True):
        key, where = row["image_key"], f"mask {row['mask_id']} of {row['image_key']}"
        found[key] += 1
        if (key, row["mask_id"]) in ids:
            problems.append(f"{where} is there twice")
        ids.add((key, row["mask_id"]))
        if key not in sizes:
            problems.append(f"{where} belongs to no image row")
        elif row["rle"]["size"] != sizes[key]:
            problems.append(f"{where} has size {row['rle']['size']}, its image {sizes[key]}")
        if not 0.0 <= row["stability_score"] <= 1.0:
            problems.append(f"{where} has stability_score {row['stability_score']}, outside [0, 1]")
        if len(row["crop_box"]) != 4 or any(len(point) != 2 for point in row["point_coords"]):
            problems.append(f"{where} must have crop_box [x, y, w, h] and point_coords [[x, y], ...]")
        about = mask_problems(row["rle"]["size"], row["rle"]["counts"], row["area"], row["bbox"])
        problems += [f"{where}: {problem}" for problem in about]
    said = Counter()
    for row in images.polars.iter_rows(named=True):
        said[row["image_key"]] += row["masks"]
    for key in sizes:
        if said[key] != found[key]:
            problems.append(f"image {key} says it has {said[key]} masks, there are {found[key]} mask rows")
    return problems


def main() -> int:
    if len(sys.argv) != 2:
        print("usage: python check_readers.py OUTPUT_DIR", file=sys.stderr)
        return 2
    output = Path(sys.argv[1])
    masks = Table(output, "masks", MASK_COLUMNS)
    images = Table(output, "images", IMAGE_COLUMNS)
    problems = masks.problems() + images.problems()
    if not problems:  # what follows needs the columns
        problems += masks.null_problems(set(MASK_COLUMNS) - NULLABLE_MASK_COLUMNS)
        problems += images.null_problems(REQUIRED_IMAGE_COLUMNS)
    if not problems:
        problems += value_problems(masks) + row_problems(masks, images)
        if masks.polars.is_empty():
            problems.append("there are no masks, so nothing was checked")
    checked = f"{images.polars.height} images and {masks.polars.height} masks in {len(masks.files)} parts"
    return report("check_readers", checked, problems)


if __name__ == "__main__":
    sys.exit(main())
