"""Writes the image files of tests/data and expected.json: what Pillow decodes from each.

    python3 -m venv venv && venv/bin/pip install "pillow==12.3.0" numpy
    venv/bin/python crates/formats/tests/generate_data.py

An entry gives the file's format, EXIF orientation, size once upright, and the 64-bit FNV-1a digest of the RGB bytes.
Pillow is the judge for all but 16-bit gray, which it saturates; there the high byte is the expected value.
"""

import json
import pathlib
import struct
import zlib

import numpy as np
import PIL
from PIL import Image, ImageOps, ImageSequence

DATA = pathlib.Path(__file__).with_name("data")
HEIGHT, WIDTH = 31, 45
ORIENTATION = 0x0112


def scene():
    """A smooth gradient with hard-edged shapes and a little noise: non-square, no symmetry."""
    y, x = np.mgrid[0:HEIGHT, 0:WIDTH]
    rgb = np.stack([x * 255 // (WIDTH - 1), y * 255 // (HEIGHT - 1), (x * 3 + y * 5) % 256], axis=-1)
    rgb[4:12, 6:20] = (220, 30, 40)
    rgb[(y - 20) ** 2 + (x - 32) ** 2 < 50] = (20, 200, 230)
    noise = np.random.default_rng(7).integers(-6, 7, rgb.shape)
    return np.clip(rgb + noise, 0, 255).astype(np.uint8)


def fnv1a(data):
    digest = 0xCBF29CE484222325
    for byte in data:
        digest = (digest ^ byte) * 0x100000001B3 % 2**64
    return f"{digest:016x}"


def png_bytes(color_type, depth, samples, chunks=()):
    """A PNG written by hand, for the kinds Pillow cannot write. `samples`: [height, row bytes]."""

    def chunk(kind, body):
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    height, width = HEIGHT, WIDTH
    rows = b"".join(b"\0" + row.tobytes() for row in samples)
    header = struct.pack(">IIBBBBB", width, height, depth, color_type, 0, 0, 0)
    parts = [chunk(b"IHDR", header), *(chunk(*c) for c in chunks), chunk(b"IDAT", zlib.compress(rows)), chunk(b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def exif(orientation):
    tags = Image.Exif()
    tags[ORIENTATION] = orientation
    return tags


def write_files():
    DATA.mkdir(exist_ok=True)
    for old in DATA.iterdir():
        old.unlink()
    rgb = scene()
    image = Image.fromarray(rgb)
    gray, cmyk = image.convert("L"), image.convert("CMYK")
    alpha = Image.fromarray((rgb[..., 0] // 2 + 60).astype(np.uint8))
    rgba, la = image.copy(), gray.copy()
    rgba.putalpha(alpha)
    la.putalpha(alpha)
    palette = image.quantize(16)

    def save(name, image, **options):
        image.save(DATA / name, **options)

    for subsampling, name in enumerate(["444", "422", "420"]):
        save(f"jpeg_{name}.jpg", image, subsampling=subsampling, quality=85)
    save("jpeg_progressive.jpg", image, progressive=True, quality=70)
    save("jpeg_restart.jpg", image, restart_marker_blocks=2)
    save("jpeg_rgb.jpg", image, keep_rgb=True)
    save("jpeg_gray.jpg", gray)
    save("jpeg_cmyk.jpg", cmyk, quality=90)
    save("jpeg_1x1.jpg", image.crop((7, 5, 8, 6)))
    save("jpeg_1x5000.jpg", image.resize((1, 5000)))
    for orientation in range(1, 9):
        save(f"jpeg_exif_{orientation}.jpg", image, exif=exif(orientation))

    save("png_rgb.png", image)
    save("png_gray.png", gray)
    save("png_gray_alpha.png", la)
    save("png_alpha.png", rgba)
    save("png_palette.png", palette)
    save("png_palette_transparent.png", palette, transparency=3)
    save("png_bilevel.png", gray.convert("1"))
    save("png_exif_6.png", image, exif=exif(6))
    save("png_1x1.png", image.crop((7, 5, 8, 6)))
    save("png_5000x1.png", image.resize((5000, 1)))
    wide = (rgb.astype(">u2") << 8) + rgb[::-1]
    (DATA / "png_rgb16.png").write_bytes(png_bytes(2, 16, wide.astype(">u2")))
    (DATA / "png_gray16.png").write_bytes(png_bytes(0, 16, wide[..., 0].astype(">u2")))
    keyed = [(b"tRNS", struct.pack(">HHH", *map(int, rgb[0, 0])))]
    (DATA / "png_rgb_color_key.png").write_bytes(png_bytes(2, 8, rgb, keyed))

    save("tiff_rgb.tif", image)
    save("tiff_lzw.tif", image, compression="tiff_lzw")
    save("tiff_deflate.tif", image, compression="tiff_adobe_deflate")
    save("tiff_packbits.tif", image, compression="packbits")
    save("tiff_gray.tif", gray)
    save("tiff_bilevel.tif", gray.convert("1"))
    save("tiff_alpha.tif", rgba)
    save("tiff_gray16.tif", Image.fromarray(wide[..., 0].astype("<u2")))
    save("tiff_exif_8.tif", image, tiffinfo={ORIENTATION: 8})
    save("tiff_two_pages.tif", image, save_all=True, append_images=[image.rotate(180)])

    save("bmp_rgb.bmp", image)
    save("bmp_palette.bmp", palette)
    save("bmp_gray.bmp", gray)
    save("bmp_alpha.bmp", rgba)

    save("webp_lossless.webp", image, lossless=True)
    save("webp_lossy.webp", image, quality=80)
    save("webp_alpha.webp", rgba, lossless=True, exact=True)
    save("webp_exif_3.webp", image, lossless=True, exif=exif(3))
    save("webp_animated.webp", image, lossless=True, save_all=True, append_images=[image.rotate(180)])


def expected(path):
    image = Image.open(path)
    orientation = image.getexif().get(ORIENTATION, 1)
    image = ImageOps.exif_transpose(next(iter(ImageSequence.Iterator(image))))
    if image.mode.startswith("I;16"):
        high = (np.asarray(image).astype(np.uint16) >> 8).astype(np.uint8)
        image = Image.fromarray(high)
    image = image.convert("RGB")
    return {
        "file": path.name,
        "exif_orientation": orientation,
        "height": image.height,
        "width": image.width,
        "fnv1a": fnv1a(image.tobytes()),
    }


def main():
    write_files()
    lines = ",\n".join(json.dumps(expected(path)) for path in sorted(DATA.iterdir()))
    (DATA / "expected.json").write_text('{"pillow": "%s", "files": [\n%s\n]}\n' % (PIL.__version__, lines))


main()
