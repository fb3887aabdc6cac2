"""Writes the grounding fixtures: what transformers, open_clip and segment-anything compute, for the Rust tests.

    python generate.py                      the fixtures that live in the repository (half a minute)
    python generate.py --only owl           one group: tokens, clip, owl, inputs, backends or path
    python generate.py --full DIR           checkpoints and fixtures of the base sizes, outside the repository

README.md in this folder says what each file holds and which tolerances the tests use.
"""

import argparse
from pathlib import Path

import reference_common  # first: it keeps the libraries on the CPU and off the network
import torch
from backends import write_backend_differences
from checkpoints import FULL, SMALL, Checkpoint, write_checkpoint
from clip_outputs import write_clip_outputs
from clip_tokenizer import write_tokenizers
from owl_outputs import write_owl_outputs
from pixels import write_processor_inputs
from token_ids import write_token_ids
from whole_path import write_whole_path

GROUPS = ("tokens", "clip", "owl", "inputs", "backends", "path")
WHOLE_PATH_CHECKPOINT = "owlv2-small"


def write_outputs(checkpoint: Checkpoint, folder: Path) -> None:
    """Writes what the checkpoint in `folder/<name>` computes, next to its folder."""
    write = write_clip_outputs if checkpoint.family in ("clip", "openclip") else write_owl_outputs
    write(checkpoint, folder / checkpoint.name, folder)


def write_repository_fixtures(only: str | None) -> None:
    """Writes every group, or the one named by `only`. Tokenizers and checkpoints are written each time: it is quick."""
    folder = reference_common.FIXTURES
    write_tokenizers(folder)
    for checkpoint in SMALL:
        write_checkpoint(checkpoint, folder, folder / checkpoint.name)
    if only in (None, "tokens"):
        write_token_ids(folder, folder / "tokens.json")
    for checkpoint in SMALL:
        if only in (None, "clip" if "clip" in checkpoint.family else "owl"):
            write_outputs(checkpoint, folder)
    if only in (None, "inputs"):
        write_processor_inputs(folder)
    if only in (None, "backends"):
        write_backend_differences(SMALL, folder)
    if only in (None, "path"):
        (checkpoint,) = (each for each in SMALL if each.name == WHOLE_PATH_CHECKPOINT)
        write_whole_path(checkpoint, folder / checkpoint.name, folder / "whole_path.json")


def write_full_size(folder: Path) -> None:
    """Writes seeded checkpoints of the base sizes, with the full tokenizer, and what they compute."""
    write_tokenizers(folder)
    for checkpoint in FULL:
        write_checkpoint(checkpoint, folder, folder / checkpoint.name)
        write_outputs(checkpoint, folder)
    write_backend_differences(FULL, folder)


def main() -> None:
    parser = argparse.ArgumentParser(description="Write the grounding fixtures of the reference implementations.")
    parser.add_argument("--only", choices=GROUPS, help="write one group of fixtures")
    parser.add_argument("--full", type=Path, metavar="DIR", help="base-size checkpoints and fixtures, written to DIR")
    parser.add_argument("--threads", type=int, default=1, help="PyTorch threads; the fixtures were made with 1")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.use_deterministic_algorithms(True)
    if args.full is None:
        write_repository_fixtures(args.only)
    else:
        write_full_size(args.full)


if __name__ == "__main__":
    main()
