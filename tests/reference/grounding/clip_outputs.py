"""What a CLIP checkpoint computes: embeddings of texts and photos, and their logits.

`<checkpoint>.json` holds strings, ids and photos, `<checkpoint>.safetensors` the tensors.
"""

from pathlib import Path

import numpy as np
import torch

from checkpoints import Checkpoint, build, image_processor, tokenizer
from pixels import before_normalising, prepare
from reference_common import PHOTOS, made_with, photo_record, read_photo, save_tensors, write_json

TEXTS = [
    "",
    "cat",
    "a photo of a cat",
    "a photo of a dog",
    "two dogs at a balcony",
    "A Cup Of COFFEE!",
    "red",
    "the sky, the sea & the street",
    "don't look now; it's 3.14",
    "你好 😀 naïve",
    "before <|endoftext|> after",  # pooled at the first end-of-text
    "a very long text about nothing in particular " * 9,
]


def clip_token_ids(checkpoint: Checkpoint, folder: Path) -> torch.Tensor:
    """`[texts, context]` ids. OpenCLIP pads with 0, Hugging Face with end-of-text; neither pad is ever looked at."""
    tokens = tokenizer(folder)
    pad = 0 if checkpoint.family == "openclip" else checkpoint.end
    rows = [tokens(text, truncation=True, max_length=checkpoint.context).input_ids for text in TEXTS]
    return torch.tensor([row + [pad] * (checkpoint.context - len(row)) for row in rows])


@torch.no_grad()
def write_clip_outputs(checkpoint: Checkpoint, folder: Path, output: Path) -> None:
    """Writes the fixture of the checkpoint in `folder` to `output`."""
    model, tokens = build(checkpoint), tokenizer(folder)
    ids = clip_token_ids(checkpoint, folder)
    processor = image_processor(checkpoint)
    normalised = torch.stack([prepare(processor, read_photo(name)) for name in PHOTOS])
    pixels = torch.stack([before_normalising(processor, each) for each in normalised])
    if checkpoint.family == "openclip":
        text, image = model.encode_text(ids), model.encode_image(normalised)
    else:
        text = model.get_text_features(ids).pooler_output
        image = model.get_image_features(normalised).pooler_output
    text_unit, image_unit = (torch.nn.functional.normalize(each, dim=-1) for each in (text, image))
    logits = model.logit_scale.exp() * image_unit @ text_unit.T
    if checkpoint.family == "openclip":
        reference = model.get_logits(normalised, ids)[0]
    else:
        reference = model(input_ids=ids, pixel_values=normalised).logits_per_image
    if not torch.allclose(logits, reference, rtol=0, atol=1e-4):
        raise SystemExit(f"{checkpoint.name}: logits do not follow from the embeddings")
    _require_spread(checkpoint.name, text_unit, image_unit)

    save_tensors(
        output / f"{checkpoint.name}.safetensors",
        {
            "token_ids": ids.to(torch.int64),
            "pixels_u8": pixels,
            "text_features": text,
            "text_embeds": text_unit,
            "image_features": image,
            "image_embeds": image_unit,
            "logits_per_image": reference,
        },
    )
    write_json(
        output / f"{checkpoint.name}.json",
        {
            "made_with": made_with(),
            "checkpoint": checkpoint.name,
            "family": checkpoint.family,
            "tensors": f"{checkpoint.name}.safetensors",
            "image_size": checkpoint.image_size,
            "context": checkpoint.context,
            "logit_scale": model.logit_scale.exp().item(),
            "texts": [{"text": text, "count": len(tokens(text, verbose=False).input_ids)} for text in TEXTS],
            "photos": [photo_record(name) for name in PHOTOS],
        },
    )


def _require_spread(name: str, text: torch.Tensor, image: torch.Tensor) -> None:
    """Stops when an embedding hardly depends on its input: the fixture would then test nothing."""
    for kind, unit in (("text", text), ("image", image)):
        cosines = (unit @ unit.T)[~torch.eye(len(unit), dtype=torch.bool)].numpy()
        print(f"{name}: cosines between {kind}s {np.round(np.quantile(cosines, [0, 0.5, 1]), 3)}")
        if cosines.max() > 0.995:
            raise SystemExit(f"{name}: {kind} embeddings are almost equal; change the recipe")
