"""Reads a grounder that `maskmill train` made with transformers alone: model, tokenizer, image processor.

    python grounder_checkpoint.py FOLDER [IMAGE PHRASE...]
    python grounder_checkpoint.py FOLDER --ids      writes grounder_ids.json, the ids of some texts, for the Rust tests

FOLDER holds `config.json`, the tokenizer's files and `model.safetensors`, or `checkpoint.safetensors` as a run leaves it.
Prints what it is; with an image and phrases, the best box of each.
"""

import shutil
import sys
import tempfile
from pathlib import Path

import reference_common  # first: it keeps the libraries on the CPU and off the network
import torch
from PIL import Image
from transformers import CLIPTokenizer, Owlv2ForObjectDetection, Owlv2ImageProcessor

TEXTS = (
    "a small red striped rounded rectangle",
    "A  Photo of\ta BLUE oval.",
    "an orange star, two crosses & 3 rings!",
    "zebra",
    "caf\u00e9 \u4e2d\u6587 \U0001f600",
    "it's the discs' shape",
    "",
)
"""Phrases of scenes, other words, and what falls to bytes."""
WEIGHTS = ("model.safetensors", "checkpoint.safetensors", "last.safetensors")
"""Names of weights, in the order in which they are looked for."""


def as_transformers_names_it(folder: Path, copy: Path) -> None:
    for name in ("config.json", "preprocessor_config.json", "vocab.json", "merges.txt"):
        shutil.copyfile(folder / name, copy / name)
    for name in ("tokenizer_config.json", "special_tokens_map.json"):
        shutil.copyfile(folder / name, copy / name)
    weights = next(folder / name for name in WEIGHTS if (folder / name).exists())
    shutil.copyfile(weights, copy / "model.safetensors")


def main() -> None:
    folder = Path(sys.argv[1])
    with tempfile.TemporaryDirectory() as copy:
        as_transformers_names_it(folder, Path(copy))
        loaded = Owlv2ForObjectDetection.from_pretrained(copy, dtype=torch.float32, output_loading_info=True)
        tokens = CLIPTokenizer.from_pretrained(copy)
        processor = Owlv2ImageProcessor.from_pretrained(copy)
    model, report = loaded
    problems = {name: keys for name, keys in report.items() if keys}
    if problems:
        raise SystemExit(f"transformers does not read it as it is: {problems}")
    print(f"{sum(p.numel() for p in model.parameters())} parameters, {len(tokens)} tokens")
    if sys.argv[2:] == ["--ids"]:
        record = {"made_with": reference_common.made_with(), "cases": {t: tokens(t).input_ids for t in TEXTS}}
        reference_common.write_json(reference_common.FIXTURES / "grounder_ids.json", record)
    if len(sys.argv) > 3:
        image, phrases = Image.open(sys.argv[2]).convert("RGB"), sys.argv[3:]
        inputs = processor(images=image, return_tensors="pt")
        ids = tokens(phrases, padding="max_length", return_tensors="pt")
        with torch.no_grad():
            outputs = model(input_ids=ids.input_ids, pixel_values=inputs.pixel_values)
        scores, patches = outputs.logits[0].sigmoid().max(0)
        side = max(image.size)
        for phrase, score, patch in zip(phrases, scores.tolist(), patches.tolist()):
            cx, cy, w, h = (outputs.pred_boxes[0, patch] * side).tolist()
            print(f"{phrase}: {score:.3f} at [{cx - w / 2:.0f}, {cy - h / 2:.0f}, {cx + w / 2:.0f}, {cy + h / 2:.0f}]")


if __name__ == "__main__":
    main()
