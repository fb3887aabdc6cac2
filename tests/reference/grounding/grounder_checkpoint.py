"""Reads a grounder that `maskmill train` made with transformers alone: model, tokenizer, image processor.

    python grounder_checkpoint.py FOLDER [IMAGE PHRASE...]

FOLDER holds `config.json`, the tokenizer's files and `model.safetensors`, or `checkpoint.safetensors` as a run leaves it.
Prints what it is; with an image and phrases, the best box of each. `ids.json`, if it is there, has texts and the ids that
maskmill's tokenizer gives them: `{"a red disc": [684, ...]}`.
"""

import json
import shutil
import sys
import tempfile
from pathlib import Path

import reference_common  # noqa: F401, first: it keeps the libraries on the CPU and off the network
import torch
from PIL import Image
from transformers import CLIPTokenizer, Owlv2ForObjectDetection, Owlv2ImageProcessor

# Names of weights, in the order in which they are looked for.
WEIGHTS = ("model.safetensors", "checkpoint.safetensors", "last.safetensors")


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
    if (folder / "ids.json").exists():
        texts = json.loads((folder / "ids.json").read_text())
        for text, ids in texts.items():
            if tokens(text).input_ids != ids:
                raise SystemExit(f"{text!r}: {tokens(text).input_ids} here, {ids} in maskmill")
        print(f"{len(texts)} texts have the same ids")
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
