"""Checkpoints as users have them: a folder with the model's file, its configuration and its tokenizer.

`SMALL` live in the repository, at sizes that no other model has, so that nothing can be assumed instead of read;
`FULL` are the published base sizes, written elsewhere on request.
"""

import json
from dataclasses import dataclass
from pathlib import Path

import open_clip
import torch
from safetensors.torch import save_file
from transformers import (
    CLIPConfig,
    CLIPImageProcessor,
    CLIPModel,
    OwlViTConfig,
    OwlViTForObjectDetection,
    OwlViTImageProcessor,
    Owlv2Config,
    Owlv2ForObjectDetection,
    Owlv2ImageProcessor,
    CLIPTokenizer,
)

from clip_tokenizer import MERGES, SMALL_MERGES, TOKENIZER_FILES, VOCABULARY_FILES, copy_tokenizer
from seeded_weights import load_seeded

HUGGING_FACE = {
    "clip": (CLIPConfig, CLIPModel, CLIPImageProcessor),
    "owlv2": (Owlv2Config, Owlv2ForObjectDetection, Owlv2ImageProcessor),
    "owlvit": (OwlViTConfig, OwlViTForObjectDetection, OwlViTImageProcessor),
}
"""Family -> configuration, model and image processor of transformers."""

OWL_PAD = "!"
LEGACY_END = 2
"""`eos_token_id` of the CLIP configurations published before transformers 4.31: pool at the largest id instead."""


@dataclass(frozen=True)
class Checkpoint:
    """What a folder holds."""

    name: str
    family: str
    """`clip`, `openclip`, `owlv2` or `owlvit`."""
    vision: dict
    """Sizes of the vision tower, under the family's own configuration keys."""
    text: dict
    projection: int
    file: str
    """Name of the model's file; the extension decides the format."""
    tokenizer: tuple[str, ...]
    """Which tokenizer files lie beside it."""
    quick_gelu: bool = True
    seed: int = 0
    context: int = 77
    legacy_end: bool = False
    """Writes the old `eos_token_id` 2, and the position buffers that files of that time hold."""
    sparse_config: bool = False
    """Leaves out of `config.json` what equals the family's defaults, as the published OWL checkpoints do."""
    merges: int = SMALL_MERGES

    @property
    def vocabulary(self) -> int:
        return 512 + self.merges + 2

    @property
    def end(self) -> int:
        """Id of the end-of-text token: the last one."""
        return self.vocabulary - 1

    @property
    def image_size(self) -> int:
        return self.vision["image_size"]


def _tower(width: int, heads: int, mlp: int, layers: int, **others) -> dict:
    return dict(
        hidden_size=width, num_attention_heads=heads, intermediate_size=mlp, num_hidden_layers=layers, **others
    )


SMALL = [
    Checkpoint(
        "clip-small",
        "clip",
        vision=_tower(64, 4, 128, 3, image_size=64, patch_size=16),
        text=_tower(48, 4, 96, 3),
        projection=40,
        file="model.safetensors",
        tokenizer=VOCABULARY_FILES,
        sparse_config=True,
    ),
    Checkpoint(
        "clip-small-gelu",
        "clip",
        vision=_tower(56, 7, 144, 2, image_size=32, patch_size=8),
        text=_tower(40, 5, 96, 2),
        projection=24,
        file="pytorch_model.bin",
        tokenizer=TOKENIZER_FILES,
        quick_gelu=False,
        legacy_end=True,
    ),
    Checkpoint(
        "openclip-small",
        "openclip",
        vision=dict(image_size=64, layers=2, width=64, head_width=16, patch_size=16, mlp_ratio=2.5),
        text=dict(width=48, heads=3, layers=2, mlp_ratio=3.0),
        projection=40,
        file="open_clip_model.safetensors",
        tokenizer=VOCABULARY_FILES,
        quick_gelu=False,
    ),
    Checkpoint(
        "openclip-small-quick",
        "openclip",
        vision=dict(image_size=48, layers=2, width=48, head_width=12, patch_size=8, mlp_ratio=3.0),
        text=dict(width=40, heads=2, layers=2),
        projection=32,
        file="open_clip_pytorch_model.bin",
        tokenizer=TOKENIZER_FILES,
    ),
    Checkpoint(
        "owlv2-small",
        "owlv2",
        vision=_tower(64, 4, 160, 2, image_size=80, patch_size=8),
        text=_tower(48, 4, 128, 2),
        projection=48,
        file="model.safetensors",
        tokenizer=TOKENIZER_FILES,
        seed=9,
        context=16,
        sparse_config=True,
    ),
    Checkpoint(
        "owlvit-small",
        "owlvit",
        vision=_tower(56, 7, 144, 2, image_size=120, patch_size=12),
        text=_tower(40, 5, 96, 2),
        projection=40,
        file="model.safetensors",
        tokenizer=VOCABULARY_FILES,
        seed=1,
        context=16,
    ),
]

FULL = [
    Checkpoint(
        "clip-vit-base-patch32",
        "clip",
        vision=_tower(768, 12, 3072, 12, image_size=224, patch_size=32),
        text=_tower(512, 8, 2048, 12),
        projection=512,
        file="model.safetensors",
        tokenizer=VOCABULARY_FILES,
        merges=MERGES,
    ),
    Checkpoint(
        "owlv2-base-patch16",
        "owlv2",
        vision=_tower(768, 12, 3072, 12, image_size=960, patch_size=16),
        text=_tower(512, 8, 2048, 12),
        projection=512,
        file="model.safetensors",
        tokenizer=VOCABULARY_FILES,
        context=16,
        merges=MERGES,
    ),
    Checkpoint(
        "owlvit-base-patch32",
        "owlvit",
        vision=_tower(768, 12, 3072, 12, image_size=768, patch_size=32),
        text=_tower(512, 8, 2048, 12),
        projection=512,
        file="model.safetensors",
        tokenizer=VOCABULARY_FILES,
        context=16,
        merges=MERGES,
    ),
]


def build(checkpoint: Checkpoint) -> torch.nn.Module:
    """The reference's model at the checkpoint's sizes with its seeded weights: f32, in evaluation mode."""
    if checkpoint.family == "openclip":
        model = open_clip.CLIP(**_openclip_config(checkpoint))
    else:
        _, model_class, _ = HUGGING_FACE[checkpoint.family]
        model = model_class(_config(checkpoint))
    model = model.float().eval().requires_grad_(False)
    load_seeded(model, checkpoint.seed)
    return model


def image_processor(checkpoint: Checkpoint, processor_class=None):
    """transformers' image processor at the checkpoint's size; OpenCLIP checkpoints are given CLIP's pixels."""
    family = "clip" if checkpoint.family == "openclip" else checkpoint.family
    processor_class = processor_class or HUGGING_FACE[family][2]
    side = checkpoint.image_size
    square = {"height": side, "width": side}
    if family == "clip":
        return processor_class(size={"shortest_edge": side}, crop_size=square)
    return processor_class(size=square)


def tokenizer(folder: Path) -> CLIPTokenizer:
    """The tokenizer of a checkpoint's folder, as transformers loads it."""
    return CLIPTokenizer.from_pretrained(folder)


def write_checkpoint(checkpoint: Checkpoint, tokenizers: Path, folder: Path) -> None:
    """Writes the checkpoint to `folder`. `tokenizers` holds what `clip_tokenizer.write_tokenizers` wrote."""
    folder.mkdir(parents=True, exist_ok=True)
    _write_tokenizer(checkpoint, tokenizers, folder)
    model = build(checkpoint)
    if checkpoint.family == "openclip":
        config = {"model_cfg": _openclip_config(checkpoint), "preprocess_cfg": _openclip_preprocessing()}
        (folder / "open_clip_config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="ascii")
    else:
        model.config.save_pretrained(folder)
        if checkpoint.sparse_config:
            _drop_defaults(folder / "config.json", model.config)
        image_processor(checkpoint).save_pretrained(folder)
    parameters = {key for key, _ in model.named_parameters()}
    weights = {key: value.half().contiguous() for key, value in model.state_dict().items() if key in parameters}
    if checkpoint.legacy_end:
        weights["text_model.embeddings.position_ids"] = torch.arange(checkpoint.context)[None]
        patches = (checkpoint.image_size // checkpoint.vision["patch_size"]) ** 2
        weights["vision_model.embeddings.position_ids"] = torch.arange(patches + 1)[None]
    file = folder / checkpoint.file
    if file.suffix == ".safetensors":
        save_file(weights, file, metadata={"format": "pt"})
        file.chmod(0o644)
    else:
        torch.save(weights, file)
    count = sum(value.numel() for value in weights.values())
    total = sum(each.stat().st_size for each in folder.iterdir())
    print(f"{folder}: {len(weights)} tensors, {count} values, {total} bytes with configuration and tokenizer")


def _config(checkpoint: Checkpoint):
    activation = "quick_gelu" if checkpoint.quick_gelu else "gelu"
    text = dict(
        checkpoint.text,
        vocab_size=checkpoint.vocabulary,
        max_position_embeddings=checkpoint.context,
        hidden_act=activation,
        bos_token_id=checkpoint.end - 1,
        eos_token_id=LEGACY_END if checkpoint.legacy_end else checkpoint.end,
        pad_token_id=checkpoint.end if checkpoint.family == "clip" else 0,
    )
    config_class, _, _ = HUGGING_FACE[checkpoint.family]
    return config_class(
        text_config=text,
        vision_config=dict(checkpoint.vision, hidden_act=activation),
        projection_dim=checkpoint.projection,
    )


def _drop_defaults(path: Path, config) -> None:
    """Removes from the towers' configurations what the family's configuration classes default to."""
    written = json.loads(path.read_text(encoding="utf-8"))
    for tower in ("text_config", "vision_config"):
        defaults = type(getattr(config, tower))().to_dict()
        kept = {k: v for k, v in written[tower].items() if k == "model_type" or defaults.get(k) != v}
        written[tower] = kept
    path.write_text(json.dumps(written, indent=2) + "\n", encoding="ascii")


def _openclip_config(checkpoint: Checkpoint) -> dict:
    text = dict(context_length=checkpoint.context, vocab_size=checkpoint.vocabulary, **checkpoint.text)
    config = dict(embed_dim=checkpoint.projection, vision_cfg=dict(checkpoint.vision), text_cfg=text)
    return config | {"quick_gelu": True} if checkpoint.quick_gelu else config


def _openclip_preprocessing() -> dict:
    """What `open_clip.push_to_hf_hub` writes for CLIP's own statistics."""
    return {
        "mean": list(open_clip.OPENAI_DATASET_MEAN),
        "std": list(open_clip.OPENAI_DATASET_STD),
        "interpolation": "bicubic",
        "resize_mode": "shortest",
    }


def _write_tokenizer(checkpoint: Checkpoint, tokenizers: Path, folder: Path) -> None:
    """OWL's checkpoints name their pad token, so theirs comes with `tokenizer_config.json`."""
    source = tokenizers / ("clip-tokenizer" if checkpoint.merges == MERGES else "small-tokenizer")
    if checkpoint.family not in ("owlv2", "owlvit"):
        copy_tokenizer(source, folder, checkpoint.tokenizer)
        return
    vocabulary = CLIPTokenizer(
        vocab=str(source / "vocab.json"),
        merges=str(source / "merges.txt"),
        pad_token=OWL_PAD,
        model_max_length=checkpoint.context,
    )
    vocabulary.save_pretrained(folder)
    copy_tokenizer(source, folder, VOCABULARY_FILES)
    for name in {*VOCABULARY_FILES, *TOKENIZER_FILES} - set(checkpoint.tokenizer):
        (folder / name).unlink()
