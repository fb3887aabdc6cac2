"""Writes a seeded, UNTRAINED SAM checkpoint under the official key names.

    python make_checkpoint.py tiny ../../models/sam-seeded-tiny.safetensors
    python make_checkpoint.py vit_b /tmp/vit_b.safetensors /tmp/vit_b.pth --seed 3

Every tensor is a function of (seed, crc32(key)) alone, through NumPy's PCG64 and element-wise arithmetic: neither the
number of threads nor the linear algebra library changes a bit of the file.

Plain Gaussian weights collapse to one mask for every prompt. Here every weight is Gaussian with standard deviation
gain / sqrt(fan in), plus a low-rank skeleton in the mask decoder that makes masks local to their prompt:

* Position. Half of the positional frequencies are "selected". The image-to-token attention of both layers reads
  only their (sin, cos) coordinates, grouped by head, so an image token at x attends to a prompt token at p in
  proportion to a sum of cos(2 pi f . (x - p)): a bump around the prompt.
* Foreground. The embeddings of positive points and box corners carry a direction `foreground` outside the selected
  coordinates. Where such a token wins the attention of layer l, the image token moves along +direction[l], and
  along -direction[l] elsewhere.
* Survival. Token self-attention is a sharp, signed near-permutation, so prompt tokens survive the first layer, which
  has no residual connection around it.
* Masks. The upscaling network carries direction[l] to the last feature map, and each mask token's hypernetwork
  reads a different mixture of the two: wide, medium and narrow masks.

The Gaussian part remains everywhere, so masks still follow the image and every weight matters to the result.
"""

import argparse
import hashlib
import zlib
from pathlib import Path

import numpy as np
import torch

from reference_model import ARCHITECTURES, build

# Gains, tuned by eye on photographs: masks of 0.3 % to 30 % of the image, predicted IoU around its threshold.
ENCODER_GAIN = 1.0
ENCODER_RESIDUAL_GAIN = 0.5
POSITION_STD = 0.3
REL_POS_STD = 0.2
FREQUENCY_STD = 0.55
ATTENTION_NOISE = 0.25
FOREGROUND_GAIN = 2.0
VALUE_BIAS = 0.6
DIRECTION_GAIN = 2.5
POSITION_GAIN = (1.3, 1.8)  # per decoder layer
UPSCALING_GAIN = 0.3
UPSCALING_TEXTURE = 0.05
TOKEN_STD = 1.8
TOKEN_RESIDUAL_GAIN = 0.5
MASK_GAIN = 200.0 * 64
HYPERNETWORK_GAIN = 12.0 * 64
SELECTED_CONTENT = 0.5
IOU_MEAN = 0.90
IOU_GAIN = 0.25
MASK_MIXTURES = [(0.7, 0.7, 0.6), (1.0, 0.15, 0.4), (0.6, 0.7, 0.8), (0.3, 1.2, 0.7)]
"""Per mask token: weights of direction[0], of direction[1], and of the constant."""

LEARNED_TOKENS = (
    "mask_decoder.iou_token",
    "mask_decoder.mask_tokens",
    "prompt_encoder.not_a_point",
    "prompt_encoder.no_mask",
)

F32 = np.float32


class SeededWeights:
    """Draws the tensors of one checkpoint, by key."""

    def __init__(self, seed: int, channels: int):
        self.seed = seed
        self.channels = channels
        half, quarter, eighth = channels // 2, channels // 4, channels // 8

        frequencies = self._rng("freq").permutation(half)
        selected, others = frequencies[:quarter], frequencies[quarter:]
        self.selected = np.stack([selected, selected + half], axis=1).reshape(-1)  # (sin, cos) pairs, head by head
        unselected = np.concatenate([others, others + half])

        self.foreground = np.zeros(channels, F32)
        self.foreground[unselected] = self._signs("w", len(unselected))
        self.direction = [self._balanced_signs(f"u{layer}", channels) for layer in (0, 1)]
        self.upscaled_once = [self._balanced_signs(f"r{layer}", quarter) for layer in (0, 1)]
        self.upscaled_twice = [self._balanced_signs(f"t{layer}", eighth) for layer in (0, 1)]

    def _rng(self, key: str) -> np.random.Generator:
        return np.random.default_rng([self.seed, zlib.crc32(key.encode())])

    def _normal(self, key: str, shape, std: float) -> np.ndarray:
        return self._rng(key).standard_normal(shape, dtype=F32) * F32(std)

    def _signs(self, key: str, count: int) -> np.ndarray:
        return np.where(self._rng(key).random(count) < 0.5, -1.0, 1.0).astype(F32)

    def _balanced_signs(self, key: str, count: int) -> np.ndarray:
        """As many -1 as +1, so that layer norm leaves the direction alone."""
        signs = np.ones(count, F32)
        signs[self._rng(key).permutation(count)[: count // 2]] = -1
        return signs

    def _signed_permutation(self, key: str, count: int) -> np.ndarray:
        matrix = np.zeros((count, count), F32)
        matrix[np.arange(count), self._rng(key).permutation(count)] = self._signs(key + "/s", count)
        return matrix

    def tensor(self, key: str, shape: tuple[int, ...]) -> np.ndarray:
        """The tensor of `key`: dispatches on the part of the model it belongs to."""
        if key.endswith("positional_encoding_gaussian_matrix"):
            return self._normal(key, shape, FREQUENCY_STD)
        if _is_norm(key):
            return self._norm(key, shape)
        if key.startswith("image_encoder."):
            return self._image_encoder(key, shape)
        if key.startswith("prompt_encoder.point_embeddings."):
            return self._point_embedding(key, shape)
        if key.startswith(LEARNED_TOKENS):
            return self._learned_token(key, shape)
        if ".self_attn." in key:
            return self._token_self_attention(key, shape)
        if ".cross_attn_image_to_token." in key:
            return self._image_to_token(key, shape)
        if ".output_upscaling." in key:
            return self._upscaling(key, shape)
        if ".output_hypernetworks_mlps." in key:
            return self._hypernetwork(key, shape)
        if ".iou_prediction_head." in key:
            return self._iou_head(key, shape)
        if key.endswith("bias"):
            return self._normal(key, shape, 0.05)
        residual = ("token_to_image" in key and key.endswith("out_proj.weight")) or ".mlp.lin2.weight" in key
        return self._fan_in(key, shape, TOKEN_RESIDUAL_GAIN if residual else 1.0)

    def _fan_in(self, key: str, shape, gain: float) -> np.ndarray:
        return self._normal(key, shape, gain / np.sqrt(np.prod(shape[1:])))

    def _norm(self, key: str, shape) -> np.ndarray:
        values = self._normal(key, shape, 0.05)
        if key.endswith("bias"):
            return values
        values = 1.0 + values
        # Image content must not drown the position in the coordinates that the image-to-token attention reads.
        if key == "image_encoder.neck.3.weight" or ".layers.0.norm4." in key:
            values[self.selected] *= SELECTED_CONTENT
        return values

    def _image_encoder(self, key: str, shape) -> np.ndarray:
        if key.endswith("pos_embed"):
            return self._normal(key, shape, POSITION_STD)
        if "rel_pos" in key:
            return self._normal(key, shape, REL_POS_STD)
        if key.endswith("bias"):
            return self._normal(key, shape, 0.05)
        residual = "attn.proj" in key or "mlp.lin2" in key
        return self._fan_in(key, shape, ENCODER_RESIDUAL_GAIN if residual else ENCODER_GAIN)

    def _point_embedding(self, key: str, shape) -> np.ndarray:
        label = int(key.split(".")[2])  # 0 negative, 1 positive, 2 and 3 box corners
        sign = -0.5 if label == 0 else 1.0
        return self._normal(key, shape, 0.2) + FOREGROUND_GAIN * sign * self.foreground

    def _learned_token(self, key: str, shape) -> np.ndarray:
        values = self._normal(key, shape, TOKEN_STD)
        if "no_mask" in key:
            return values * F32(0.3)
        values[:, self.selected] *= 0.2
        return values

    def _token_self_attention(self, key: str, shape) -> np.ndarray:
        if key.endswith("bias"):
            return self._normal(key, shape, 0.02)
        is_query_or_key = "q_proj" in key or "k_proj" in key
        attention = key.rsplit(".", 2)[0]
        base = self._signed_permutation(attention + ("/qk" if is_query_or_key else "/vo"), self.channels)
        if "out_proj" in key:
            base = base.T
        return base + self._fan_in(key, shape, ATTENTION_NOISE)

    def _image_to_token(self, key: str, shape) -> np.ndarray:
        layer = int(key.split(".")[3])
        half = self.channels // 2
        readout = self._signs(f"z{layer}", half)
        if key.endswith("bias"):
            values = self._normal(key, shape, 0.02)
            return values - VALUE_BIAS * readout if "v_proj" in key else values
        values = self._fan_in(key, shape, ATTENTION_NOISE)
        if "q_proj" in key or "k_proj" in key:
            values[np.arange(half), self.selected] += POSITION_GAIN[layer]
        elif "v_proj" in key:
            values += np.outer(readout, self.foreground) / (self.foreground @ self.foreground)
        elif "out_proj" in key:
            values += DIRECTION_GAIN * np.outer(self.direction[layer], readout) / half
        return values

    def _upscaling(self, key: str, shape) -> np.ndarray:
        if key.endswith("bias"):
            return self._normal(key, shape, 0.05)
        inputs, outputs = shape[:2]
        kernel = self._normal(key + "/base", (inputs, outputs), UPSCALING_GAIN / np.sqrt(inputs))
        first = key.split(".")[2] == "0"
        before, after = (
            (self.direction, self.upscaled_once) if first else (self.upscaled_once, self.upscaled_twice)
        )
        for layer in (0, 1):
            kernel += np.outer(before[layer], after[layer]) / inputs
        texture = self._normal(key, shape, UPSCALING_TEXTURE / np.sqrt(inputs))
        return kernel[:, :, None, None] + texture  # nearly constant over each 2 x 2 kernel

    def _hypernetwork(self, key: str, shape) -> np.ndarray:
        parts = key.split(".")
        if parts[4] != "2":
            return self._normal(key, shape, 0.1) if key.endswith("bias") else self._fan_in(key, shape, 1.41)
        if not key.endswith("bias"):
            return self._fan_in(key, shape, HYPERNETWORK_GAIN / self.channels)
        first, second, constant = MASK_MIXTURES[int(parts[2])]
        count = self.channels // 8
        mixture = (first * self.upscaled_twice[0] + second * self.upscaled_twice[1]) / count * 2 + constant / count
        return MASK_GAIN / self.channels * mixture + self._normal(key, shape, 0.05)

    def _iou_head(self, key: str, shape) -> np.ndarray:
        last = ".layers.2." in key
        if key.endswith("bias"):
            return np.full(shape, IOU_MEAN, F32) if last else self._normal(key, shape, 0.1)
        return self._fan_in(key, shape, IOU_GAIN if last else 1.41)


def _is_norm(key: str) -> bool:
    """Layer norms, some of which are known only by their place in a sequence."""
    return "norm" in key or key.startswith(
        (
            "image_encoder.neck.1.",
            "image_encoder.neck.3.",
            "mask_decoder.output_upscaling.1.",
            "prompt_encoder.mask_downscaling.1.",
            "prompt_encoder.mask_downscaling.4.",
        )
    )


def seeded_state_dict(name: str, seed: int):
    """The state dict of the named architecture, with seeded values.

    It starts from the module's own `state_dict()`, so key order and PyTorch's metadata are those of an official file.
    """
    state = build(name).state_dict()
    weights = SeededWeights(seed, ARCHITECTURES[name].channels)
    for key, value in list(state.items()):
        array = np.ascontiguousarray(weights.tensor(key, tuple(value.shape)), dtype=F32)
        state[key] = torch.from_numpy(array).reshape(value.shape)
    return state


def write_checkpoint(name: str, seed: int, outputs: list[Path]) -> None:
    """Writes one file per output; the extension decides the format."""
    for output in outputs:
        if output.suffix not in (".safetensors", ".pth"):
            raise SystemExit(f"{output}: the extension must be .safetensors or .pth")
    state = seeded_state_dict(name, seed)
    for output in outputs:
        if output.suffix == ".safetensors":
            from safetensors.torch import save

            about = f"seeded and UNTRAINED, made by tests/reference/make_checkpoint.py {name} --seed {seed}"
            output.write_bytes(save(state, metadata={"about": about}))
        else:
            torch.save(state, output)
        parameters = sum(value.numel() for value in state.values())
        digest = hashlib.sha256(output.read_bytes()).hexdigest()
        print(f"{output}: {len(state)} tensors, {parameters} parameters, sha256 {digest}")


def main() -> None:
    parser = argparse.ArgumentParser(description="Write a seeded, untrained SAM checkpoint.")
    parser.add_argument("architecture", choices=ARCHITECTURES)
    parser.add_argument("outputs", nargs="+", type=Path, help=".safetensors or .pth files to write")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    write_checkpoint(args.architecture, args.seed, args.outputs)


if __name__ == "__main__":
    main()
