"""The reference implementation at any size: segment-anything 1.0's own modules, built from an `Architecture`.

Everything the parity fixtures compare with goes through this file, so that the seeded checkpoints, the stage
fixtures and the automatic-mask fixtures agree on what a model of a given name is.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

os.environ.setdefault("CUDA_VISIBLE_DEVICES", "")  # the fixtures are defined on the CPU in f32

import numpy as np
import torch
from PIL import Image
from segment_anything.modeling import ImageEncoderViT, MaskDecoder, PromptEncoder, Sam, TwoWayTransformer

REPOSITORY = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Architecture:
    """The sizes that a SAM checkpoint's tensor shapes imply."""

    image_size: int
    """Side of the square model input, in pixels."""
    width: int
    """Channels of the image encoder's tokens."""
    depth: int
    """Blocks of the image encoder."""
    heads: int
    """Attention heads of the image encoder. The decoder always has `DECODER_HEADS`."""
    global_blocks: tuple[int, ...]
    """Blocks that attend over the whole image; the others attend within windows."""
    window: int
    """Side of an attention window, in patches."""
    channels: int
    """Channels of the image embedding and of every prompt token."""
    decoder_mlp: int
    iou_hidden: int
    rel_pos_lengths: Mapping[int, int] = field(default_factory=dict)
    """Block -> rows of its `rel_pos_h` and `rel_pos_w`, where these are not the natural `2 * side - 1`.

    The reference then interpolates the tables (`get_rel_pos`).
    """

    @property
    def grid(self) -> int:
        """Side of the patch grid."""
        return self.image_size // PATCH


PATCH = 16
DECODER_HEADS = 8  # not recoverable from tensor shapes; 8 in every SAM

ARCHITECTURES = {
    # Quick start and tests: a 16 x 16 patch grid under windows of 7, so windows are padded.
    "tiny": Architecture(256, 96, 4, 3, (1, 3), 7, channels=64, decoder_mlp=256, iou_hidden=64),
    "mini": Architecture(512, 96, 4, 3, (1, 3), 7, channels=64, decoder_mlp=256, iou_hidden=64),
    # Every size differs from tiny's: proves that the architecture is read from the checkpoint.
    "compact": Architecture(128, 48, 2, 2, (1,), 5, channels=32, decoder_mlp=192, iou_hidden=48),
    # Two global blocks whose relative positions are shorter and longer than the 31 rows that 16 x 16 patches need.
    "stretched": Architecture(
        256, 40, 3, 2, (1, 2), 6, channels=32, decoder_mlp=128, iou_hidden=32, rel_pos_lengths={1: 17, 2: 43}
    ),
    "vit_b": Architecture(1024, 768, 12, 12, (2, 5, 8, 11), 14, channels=256, decoder_mlp=2048, iou_hidden=256),
    "vit_l": Architecture(1024, 1024, 24, 16, (5, 11, 17, 23), 14, channels=256, decoder_mlp=2048, iou_hidden=256),
    "vit_h": Architecture(1024, 1280, 32, 16, (7, 15, 23, 31), 14, channels=256, decoder_mlp=2048, iou_hidden=256),
}


def build(name: str) -> Sam:
    """Builds the named architecture with PyTorch's initial weights, in evaluation mode."""
    arch = ARCHITECTURES[name]
    image_encoder = ImageEncoderViT(
        img_size=arch.image_size,
        patch_size=PATCH,
        embed_dim=arch.width,
        depth=arch.depth,
        num_heads=arch.heads,
        mlp_ratio=4,
        out_chans=arch.channels,
        qkv_bias=True,
        norm_layer=partial(torch.nn.LayerNorm, eps=1e-6),
        use_rel_pos=True,
        window_size=arch.window,
        global_attn_indexes=arch.global_blocks,
    )
    for block, length in arch.rel_pos_lengths.items():
        attention = image_encoder.blocks[block].attn
        for table in ("rel_pos_h", "rel_pos_w"):
            setattr(attention, table, torch.nn.Parameter(torch.zeros(length, arch.width // arch.heads)))
    sam = Sam(
        image_encoder=image_encoder,
        prompt_encoder=PromptEncoder(
            embed_dim=arch.channels,
            image_embedding_size=(arch.grid, arch.grid),
            input_image_size=(arch.image_size, arch.image_size),
            mask_in_chans=16,
        ),
        mask_decoder=MaskDecoder(
            num_multimask_outputs=3,
            transformer=TwoWayTransformer(
                depth=2, embedding_dim=arch.channels, mlp_dim=arch.decoder_mlp, num_heads=DECODER_HEADS
            ),
            transformer_dim=arch.channels,
            iou_head_depth=3,
            iou_head_hidden_dim=arch.iou_hidden,
        ),
        pixel_mean=[123.675, 116.28, 103.53],
        pixel_std=[58.395, 57.12, 57.375],
    )
    return sam.eval().requires_grad_(False)


def load(name: str, checkpoint: Path) -> Sam:
    """Loads a `.pth` or `.safetensors` checkpoint of the named architecture."""
    if checkpoint.suffix == ".safetensors":
        from safetensors.torch import load_file

        weights = load_file(checkpoint)
    else:
        weights = torch.load(checkpoint, weights_only=True)
    sam = build(name)
    sam.load_state_dict(weights)
    return sam


def read_rgb(path: Path) -> np.ndarray:
    """Decodes an image with Pillow to `[height, width, 3]` uint8."""
    with Image.open(path) as image:
        return np.array(image.convert("RGB"))
