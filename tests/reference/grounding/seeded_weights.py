"""Seeded, UNTRAINED weights for CLIP, OWLv2 and OWL-ViT, under any of their key names.

Every tensor is a function of (seed, crc32(key)) and the model's sizes, through NumPy's PCG64 and element-wise
arithmetic, rounded to f16: neither the number of threads nor the linear algebra library changes a bit of a checkpoint.
Files hold f16, and the fixtures are computed in f32 from the rounded values.

Weights are Gaussian with standard deviation gain / sqrt(fan in). The gains below are tuned so that nothing degenerates:

* Attention. PyTorch's own scale makes attention nearly uniform, and an untrained text model then gives every text the
  embedding of its end-of-text token. Larger query, key, value and output gains let the other tokens through.
  What a block adds shrinks with the depth, else many blocks make all patches of a photo alike.
* Detection scores. Cosines between untrained towers are about 1 / sqrt(channels): the biases of the class head's
  `logit_scale` and `logit_shift` follow the channels, so that scores spread over 0.02 to 0.9 at every size.
* Boxes. The size bias of OWL's box head is one patch; the last layer's bias and gain make boxes of 3 % to 80 % of the
  image's side.
"""

import re
import zlib
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch

F32 = np.float32

LOGIT_SCALE = 2.6592  # ln(1 / 0.07), as CLIP starts with
BIAS_STD = 0.05
NORM_STD = 0.1
EMBEDDING_STD = 0.5
POSITION_STD = 0.3
ATTENTION_GAIN = {"q": 1.6, "k": 1.6, "v": 1.2, "out": 1.7}  # out: over sqrt(depth)
MLP_GAIN = {"in": 1.3, "out": 1.13}  # the same
PATCH_GAIN = 1.5
PROJECTION_GAIN = 1.0

CLASS_SCALE_BIAS, CLASS_SCALE_GAIN = 2.6, 0.3  # times sqrt(channels)
CLASS_SHIFT_BIAS, CLASS_SHIFT_GAIN = -1.0, 0.3  # over sqrt(channels)
BOX_GAIN = 0.9
BOX_BIAS = (0.0, 0.0, 1.1, 1.1)  # center x, center y, width, height; added before the sigmoid
OBJECTNESS_GAIN, OBJECTNESS_BIAS = 2.5, -1.0
HEAD_GAIN = 1.6


@dataclass(frozen=True)
class Sizes:
    """What the gains depend on, beyond the shape of the tensor itself."""

    depth: int
    """Blocks of a tower."""
    channels: int
    """Width of the space in which a detector compares patches with texts; 0 for CLIP, which has no use for it."""


def load_seeded(model: torch.nn.Module, seed: int) -> None:
    """Gives `model` its seeded weights: f32, exact in f16. Buffers are left alone."""
    parameters = dict(model.named_parameters())
    blocks = [int(found.group(1)) for key in parameters if (found := re.search(r"(?:layers|resblocks)\.(\d+)\.", key))]
    compared = parameters.get("class_head.dense0.weight")
    sizes = Sizes(depth=max(blocks) + 1, channels=0 if compared is None else compared.shape[0])
    for key, parameter in parameters.items():
        rounded = np.asarray(_draw(seed, key, tuple(parameter.shape), sizes), dtype=np.float16)
        parameter.data.copy_(torch.from_numpy(rounded.astype(F32)).reshape(parameter.shape))


def _draw(seed: int, key: str, shape: tuple[int, ...], sizes: Sizes) -> np.ndarray:
    generator = np.random.default_rng([seed, zlib.crc32(key.encode())])

    def normal(std: float) -> np.ndarray:
        return generator.standard_normal(shape, dtype=F32) * F32(std)

    def fan_in(gain: float) -> np.ndarray:
        return normal(gain / np.sqrt(np.prod(shape[1:])))

    if key == "logit_scale" or key.endswith(("owlv2.logit_scale", "owlvit.logit_scale")):
        return np.full(shape, LOGIT_SCALE, F32)
    if key.startswith(("class_head.", "box_head.", "objectness_head.")):
        return _detection_head(key, shape, sizes.channels, normal, fan_in)
    if _is_norm(key):
        return normal(NORM_STD) + F32(1.0 if key.endswith("weight") else 0.0)
    if key.endswith("bias"):
        return normal(BIAS_STD)
    if "position" in key:
        return normal(POSITION_STD)
    if "embedding" in key and "patch" not in key:  # tokens, class token
        return normal(EMBEDDING_STD)
    if key.endswith(("visual.proj", "text_projection")):  # OpenCLIP's are [in, out]
        return normal(PROJECTION_GAIN / np.sqrt(shape[0]))
    if key.endswith("in_proj_weight"):  # OpenCLIP: query, key and value, one below the other
        gains = np.repeat([ATTENTION_GAIN[part] for part in "qkv"], shape[1]).astype(F32)
        return fan_in(1.0) * gains[:, None]
    return fan_in(_gain(key, sizes.depth))


def _gain(key: str, depth: int) -> float:
    """The gain of a linear or convolution weight, under Hugging Face's names and OpenCLIP's."""
    if key.endswith("out_proj.weight"):
        return ATTENTION_GAIN["out"] / np.sqrt(depth)
    for part in "qkv":
        if key.endswith(f"{part}_proj.weight"):
            return ATTENTION_GAIN[part]
    if key.endswith(("mlp.fc1.weight", "mlp.c_fc.weight")):
        return MLP_GAIN["in"]
    if key.endswith(("mlp.fc2.weight", "mlp.c_proj.weight")):
        return MLP_GAIN["out"] / np.sqrt(depth)
    if key.endswith(("patch_embedding.weight", "conv1.weight")):
        return PATCH_GAIN
    if key.endswith("_projection.weight"):
        return PROJECTION_GAIN
    raise SystemExit(f"no recipe for the tensor {key}")


def _is_norm(key: str) -> bool:
    return any(name in key for name in ("layer_norm", "layernorm", "layrnorm", ".ln_", "ln_final"))


def _detection_head(key: str, shape, channels: int, normal: Callable, fan_in: Callable) -> np.ndarray:
    bias = key.endswith("bias")
    if key.startswith("class_head.logit_scale"):
        spread = np.sqrt(channels)
        return np.full(shape, CLASS_SCALE_BIAS * spread, F32) if bias else fan_in(CLASS_SCALE_GAIN * spread)
    if key.startswith("class_head.logit_shift"):
        spread = 1 / np.sqrt(channels)
        return np.full(shape, CLASS_SHIFT_BIAS * spread, F32) if bias else fan_in(CLASS_SHIFT_GAIN * spread)
    if key.startswith("box_head.dense2"):
        return np.asarray(BOX_BIAS, F32) if bias else fan_in(BOX_GAIN)
    if key.startswith("objectness_head.dense2"):
        return np.full(shape, OBJECTNESS_BIAS, F32) if bias else fan_in(OBJECTNESS_GAIN)
    return normal(BIAS_STD) if bias else fan_in(HEAD_GAIN)
