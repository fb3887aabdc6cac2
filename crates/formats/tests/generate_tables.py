"""Writes the files of tests/tables as other programs write them, and expected.json: what is in each.

    python3 -m venv venv && venv/bin/pip install "pyarrow==26.0.1" "polars==2.1.0" "pandas==3.1.1"
    venv/bin/python crates/formats/tests/generate_tables.py

Tables of images follow Hugging Face datasets (`Image()` is a struct of bytes and path, boxes are fixed-size lists,
large types are declared in Arrow's own metadata), img2dataset (a binary column named like the format) and a plain
Polars frame. Manifests hold the same rows in each format and dialect.
"""

import json
import pathlib
import struct
import zlib

import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

DATA = pathlib.Path(__file__).with_name("tables")
HEIGHT, WIDTH = 6, 8


def png(seed):
    """An RGB image of 6 rows and 8 columns, no two alike."""
    rows = b"".join(
        b"\0" + bytes((seed * 37 + y * 11 + x * 5 + c * 3) % 256 for x in range(WIDTH) for c in range(3))
        for y in range(HEIGHT)
    )

    def part(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = part(b"IHDR", struct.pack(">IIBBBBB", WIDTH, HEIGHT, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + part(b"IDAT", zlib.compress(rows, 9)) + part(b"IEND", b"")


def sample(row, key, image, caption=None, boxes=None):
    return {"row": row, "key": key, "crc32": zlib.crc32(image), "caption": caption, "boxes": boxes}


def hugging_face():
    """Eight rows in groups of three: an image without a path, a path without an image, neither, no row at all."""
    images = [{"bytes": png(row), "path": f"train/{row:03}.png"} for row in range(8)]
    images[2]["path"] = None
    images[4]["bytes"] = None
    images[5] = {"bytes": None, "path": None}
    images[6] = None
    boxes = [[[0.5, 1.0, 7.5, 5.0], [1.0, 1.0, 2.0, 2.0]], [], None, [[0.0, 0.0, 8.0, 6.0]]] * 2
    captions = ["a cat", "zwei Hütten", None, "多い"] * 2
    corners = pa.list_(pa.float32(), 4)
    table = pa.table(
        {
            "image": pa.array(images, pa.struct([("bytes", pa.binary()), ("path", pa.string())])),
            "label": pa.array(range(8), pa.int64()),
            "caption": pa.array(captions, pa.large_string()).dictionary_encode(),
            "bboxes": pa.array(boxes, pa.list_(corners)),
        }
    )
    features = {"image": {"_type": "Image"}, "label": {"dtype": "int64", "_type": "Value"}}
    metadata = {b"huggingface": json.dumps({"info": {"features": features}}).encode()}
    pq.write_table(table.replace_schema_metadata(metadata), DATA / "hugging_face.parquet", row_group_size=3)

    expected = []
    for row, image in enumerate(images):
        image = image or {"bytes": None, "path": None}
        key = image["path"] or f"{row:08}"
        if image["bytes"] is None:
            expected.append({"row": row, "key": key, "reason": "no_bytes"})
        else:
            expected.append(sample(row, key, image["bytes"], captions[row], boxes[row]))
    return expected


def img2dataset():
    """Four rows as img2dataset writes them: failed downloads have no image."""
    table = pa.table(
        {
            "url": [f"https://example.org/{row}.png" for row in range(4)],
            "key": [f"{row:09}" for row in range(4)],
            "status": ["success", "failed_to_download", "success", "success"],
            "error_message": [None, "HTTP Error 404", None, None],
            "caption": ["one", None, "line\nbreak", ""],
            "width": pa.array([WIDTH, None, WIDTH, WIDTH], pa.int32()),
            "png": pa.array([png(20), None, png(22), png(23)], pa.large_binary()),
        }
    )
    pq.write_table(table, DATA / "img2dataset.parquet", compression="gzip", data_page_version="2.0")
    return [
        sample(0, "000000000", png(20), "one"),
        {"row": 1, "key": "000000001", "reason": "no_bytes"},
        sample(2, "000000002", png(22), "line\nbreak"),
        sample(3, "000000003", png(23)),
    ]


def plain():
    """Five rows of a Polars frame: integers as keys, boxes as JSON text, one of them unreadable."""
    boxes = ["[[0, 0, 4, 3]]", "[0, 0, 4, 3]", "", "[[0, 0, 4]]", None]
    frame = pl.DataFrame(
        {"id": [7, 7, 9, 10, None], "content": [png(row) for row in range(30, 35)], "boxes": boxes},
        schema_overrides={"id": pl.UInt16},
    )
    frame.write_parquet(DATA / "plain.parquet", compression="zstd", row_group_size=2)
    return [
        sample(0, "7", png(30), boxes=[[0, 0, 4, 3]]),
        sample(1, "7", png(31), boxes=[[0, 0, 4, 3]]),
        sample(2, "9", png(32)),
        {"row": 3, "key": "10", "reason": "bad_boxes"},
        sample(4, "00000004", png(34)),
    ]


def manifests():
    """The same five rows as pandas, Polars and Python write them."""
    uris = ["s3://bucket/a b.jpg", "file:///c,d.png", "https://example.org/%2F..?x=1", None, "é/本.webp"]
    keys = ["007", "b", "c", "d", "e"]
    captions = ['said "hi",\nthen left', "", None, "no image", "ünï, cödé"]
    boxes = [[[1.0, 2.0, 3.5, 4.0]], None, [], None, [[0.0, 0.0, 8.0, 6.0], [1.0, 1.0, 1.0, 1.0]]]
    sizes = [1234, None, 0, 5, 1 << 40]
    texts = [None if row is None else json.dumps(row) for row in boxes]

    frame = pd.DataFrame({"note": range(5), "url": uris, "key": keys, "caption": captions, "boxes": texts, "size": sizes})
    frame.to_csv(DATA / "manifest_pandas.csv", index=False)
    frame.to_csv(DATA / "manifest_excel.tsv", index=False, sep="\t", lineterminator="\r\n", encoding="utf-8-sig")
    frame.assign(boxes=boxes).to_json(DATA / "manifest_pandas.jsonl", orient="records", lines=True)

    typed = pl.DataFrame(
        {"url": uris, "key": keys, "caption": captions, "boxes": boxes, "size": sizes},
        schema_overrides={"caption": pl.Categorical, "boxes": pl.List(pl.Array(pl.Float32, 4)), "size": pl.UInt64},
    )
    typed.write_parquet(DATA / "manifest_polars.parquet", compression="lz4", row_group_size=2)
    typed.write_ndjson(DATA / "manifest_polars.jsonl")

    def row(index):
        if uris[index] is None:
            return {"row": index, "key": keys[index], "reason": "no_uri"}
        return {
            "row": index,
            "uri": uris[index],
            "key": keys[index],
            "caption": captions[index] or None,
            "boxes": boxes[index],
            "bytes": sizes[index],
        }

    return [row(index) for index in range(5)]


def main():
    expected = {
        "hugging_face.parquet": hugging_face(),
        "img2dataset.parquet": img2dataset(),
        "plain.parquet": plain(),
        "manifests": manifests(),
    }
    lines = []
    for name, rows in expected.items():
        lines.append(f"  {json.dumps(name)}: [\n" + ",\n".join(f"    {json.dumps(row)}" for row in rows) + "\n  ]")
    (DATA / "expected.json").write_text("{\n" + ",\n".join(lines) + "\n}\n")


main()
