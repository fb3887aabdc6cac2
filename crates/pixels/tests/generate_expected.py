"""Writes pillow_resize.json: digests of Pillow's bilinear resizes of seeded noise.

Run with Pillow 12.3 (other versions order the two passes by other rules):

    python3 -m venv venv && venv/bin/pip install "pillow==12.3.0"
    venv/bin/python crates/pixels/tests/generate_expected.py
"""

import json
import pathlib

import PIL
from PIL import Image

# (width, height) -> (width, height)
CASES = [
    # Reductions, as the model's input is made.
    ((640, 427), (256, 171)), ((427, 640), (171, 256)), ((1023, 681), (256, 170)), ((517, 389), (64, 48)),
    ((2000, 3), (256, 1)), ((3, 2000), (1, 256)), ((1001, 999), (1000, 998)), ((255, 257), (254, 256)),
    # Enlargements.
    ((100, 67), (256, 172)), ((67, 100), (172, 256)), ((13, 7), (256, 138)), ((2, 2), (255, 256)),
    # One axis each way, and one axis unchanged.
    ((300, 20), (64, 200)), ((20, 300), (200, 64)), ((333, 50), (100, 50)), ((50, 333), (50, 100)),
    ((50, 33), (99, 33)), ((33, 50), (33, 99)), ((64, 48), (64, 48)),
    # Both sides of the 100 : 1 shape beyond which the vertical pass comes first, if it reduces.
    ((3, 300), (2, 100)), ((3, 301), (2, 100)), ((3, 301), (2, 301)), ((3, 301), (2, 302)), ((3, 301), (7, 300)),
    # Extremes.
    ((1, 1), (1, 1)), ((1, 1), (256, 256)), ((5000, 1), (256, 1)), ((1, 5000), (1, 256)), ((1, 5000), (7, 9)),
    ((5000, 1), (1, 1)), ((255, 255), (1, 1)), ((3, 5), (1000, 2)),
]


def noise(seed, count, extreme):
    """Knuth's MMIX generator, top byte of each state; `extreme` leaves only 0 and 255."""
    state, out = seed, bytearray(count)
    for i in range(count):
        state = (state * 6364136223846793005 + 1442695040888963407) % 2**64
        byte = state >> 56
        out[i] = (255 if byte >= 128 else 0) if extreme else byte
    return bytes(out)


def fnv1a(data):
    """64-bit FNV-1a."""
    digest = 0xCBF29CE484222325
    for byte in data:
        digest = (digest ^ byte) * 0x100000001B3 % 2**64
    return f"{digest:016x}"


def case(index, source, target):
    extreme = index % 2 == 1
    image = Image.frombytes("RGB", source, noise(index, source[0] * source[1] * 3, extreme))
    resized = image.resize(target, Image.Resampling.BILINEAR)
    return {"seed": index, "extreme": extreme, "source": source, "target": target, "fnv1a": fnv1a(resized.tobytes())}


def main():
    cases = [json.dumps(case(i, *sizes)) for i, sizes in enumerate(CASES)]
    text = '{"pillow": "%s", "cases": [\n%s\n]}\n' % (PIL.__version__, ",\n".join(cases))
    pathlib.Path(__file__).with_name("pillow_resize.json").write_text(text)


if __name__ == "__main__":
    main()
