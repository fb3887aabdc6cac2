"""Checks one mask record against what pycocotools makes of its run lengths."""

import pycocotools.mask


def mask_problems(size, counts: str, area: int, bbox) -> list[str]:
    """Everything wrong with a mask; empty when pycocotools agrees with the record.

    `size` is `[height, width]`. `bbox` is `[x, y, w, h]` with Segment Anything's width and height, which are one less
    than the number of columns and rows, because they are differences of inclusive pixel indices.
    """
    rle = {"size": [int(n) for n in size], "counts": counts}
    height, width = rle["size"]
    try:
        decoded = pycocotools.mask.decode(rle)
    except Exception as error:  # pycocotools raises bare exceptions of several types
        return [f"pycocotools cannot decode it: {error}"]
    problems = []
    if decoded.shape != (height, width):
        problems.append(f"decodes to {decoded.shape}, its size says {(height, width)}")
    # A truncated or overlong run list still decodes; encoding it again does not give the same string.
    if pycocotools.mask.encode(decoded)["counts"].decode("ascii") != counts:
        problems.append("its counts are not those of the mask they decode to")
    pixels = int(decoded.sum())
    if pixels != area:
        problems.append(f"area is {area}, the mask has {pixels} pixels")
    expected = [0, 0, 0, 0]
    if pixels > 0:
        x, y, columns, rows = (int(n) for n in pycocotools.mask.toBbox(rle))
        expected = [x, y, columns - 1, rows - 1]
    if [int(n) for n in bbox] != expected:
        problems.append(f"bbox is {[int(n) for n in bbox]}, the mask's is {expected}")
    return problems


def report(what: str, checked: str, problems: list[str], shown: int = 20) -> int:
    """Prints the verdict and returns the exit status."""
    if not problems:
        print(f"{what}: ok, {checked}")
        return 0
    for problem in problems[:shown]:
        print(f"{what}: {problem}")
    if len(problems) > shown:
        print(f"{what}: and {len(problems) - shown} more")
    print(f"{what}: {len(problems)} problems in {checked}")
    return 1
