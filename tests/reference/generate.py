"""Writes the parity fixtures: what segment-anything 1.0 computes, for the Rust tests to compare with.

    python generate.py                      the fixtures that live in the repository (a few minutes)
    python generate.py --only stages        one group: resized, stages, training or amg
    python generate.py --full vit_b DIR     checkpoint and stage fixtures of a full-size model, outside the repository

README.md in this folder says what each file holds and which tolerances the tests use.
"""

import argparse
from pathlib import Path

import torch

from automatic_masks import AMG_PHOTOS, AMG_SETTINGS, write_automatic_masks
from make_checkpoint import write_checkpoint
from reference_model import ARCHITECTURES, REPOSITORY, load
from resized_inputs import write_resized_inputs
from stages import write_stages
from training_step import write_training_step

FIXTURES = Path(__file__).resolve().parent / "fixtures"
TINY_CHECKPOINT = REPOSITORY / "models" / "sam-seeded-tiny.safetensors"

# architecture, checkpoint, photo, and how much of it to keep
STAGES = [
    ("tiny", TINY_CHECKPOINT, "cat.png", {"keep_between": True}),
    ("tiny", TINY_CHECKPOINT, "dogs.png", {"keep_between": False}),
    ("compact", FIXTURES / "sam-seeded-compact.pth", "coffee.png", {"keep_between": True}),
    # This one is about the image encoder.
    (
        "stretched",
        FIXTURES / "sam-seeded-stretched.safetensors",
        "fig.png",
        {"keep_between": True, "only_cases": ("point", "box")},
    ),
]


def write_repository_fixtures(only: str | None) -> None:
    """Writes every group, or the one named by `only`. Checkpoints are written when they are missing."""
    FIXTURES.mkdir(exist_ok=True)
    for architecture, checkpoint, _, _ in STAGES:
        if not checkpoint.exists():
            write_checkpoint(architecture, 0, [checkpoint])
    if only in (None, "resized"):
        write_resized_inputs(FIXTURES / "resized_inputs.json")
    if only in (None, "stages"):
        for architecture, checkpoint, photo, extent in STAGES:
            sam = load(architecture, checkpoint)
            write_stages(sam, architecture, checkpoint, REPOSITORY / "samples" / photo, FIXTURES, **extent)
    if only in (None, "training"):
        checkpoint = FIXTURES / "sam-seeded-compact.pth"
        write_training_step(load("compact", checkpoint), checkpoint, FIXTURES)
    if only in (None, "amg"):
        sam = load("tiny", TINY_CHECKPOINT)
        for photo in AMG_PHOTOS:
            write_automatic_masks(sam, TINY_CHECKPOINT, REPOSITORY / "samples" / photo, AMG_SETTINGS, FIXTURES)


def write_full_size(architecture: str, folder: Path) -> None:
    """Writes a seeded checkpoint in both formats, and its stage fixtures for one landscape and one portrait photo."""
    folder.mkdir(parents=True, exist_ok=True)
    checkpoint = folder / f"sam-seeded-{architecture}.safetensors"
    write_checkpoint(architecture, 0, [checkpoint, checkpoint.with_suffix(".pth")])
    sam = load(architecture, checkpoint)
    for photo in ("coffee.png", "dogs.png"):
        write_stages(sam, architecture, checkpoint, REPOSITORY / "samples" / photo, folder, keep_between=False)


def main() -> None:
    parser = argparse.ArgumentParser(description="Write the parity fixtures of the reference implementation.")
    parser.add_argument("--only", choices=("resized", "stages", "training", "amg"), help="write one group of fixtures")
    parser.add_argument("--full", nargs=2, metavar=("ARCHITECTURE", "DIR"), help="full-size fixtures, written to DIR")
    parser.add_argument("--threads", type=int, default=1, help="PyTorch threads; the fixtures were made with 1")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    if args.full is None:
        write_repository_fixtures(args.only)
        return
    architecture, folder = args.full
    if architecture not in ARCHITECTURES:
        parser.error(f"unknown architecture {architecture}; known: {', '.join(ARCHITECTURES)}")
    write_full_size(architecture, Path(folder))


if __name__ == "__main__":
    main()
