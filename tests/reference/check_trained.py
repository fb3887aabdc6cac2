"""A checkpoint that maskmill wrote, read by PyPI's segment-anything as it is: the same masks from both.

    python tests/reference/check_trained.py models/sam-nano.safetensors samples/coffee.png --maskmill target/release/maskmill

Builds segment-anything's modules at the sizes of the checkpoint, loads it with `load_state_dict(strict=True)`, and compares
`SamPredictor`'s masks of points and boxes with those of `maskmill predict`. Needs the packages of requirements.txt.
"""

import argparse
import json
import subprocess
import tempfile
from functools import partial
from pathlib import Path

import numpy as np
import pycocotools.mask
import torch
from safetensors.torch import load_file
from segment_anything import SamPredictor
from segment_anything.modeling import ImageEncoderViT, MaskDecoder, PromptEncoder, Sam, TwoWayTransformer

from reference_model import DECODER_HEADS, read_rgb

# Of the image's width and height.
POINTS = [(0.5, 0.5), (0.25, 0.6), (0.7, 0.3)]
BOXES = [(0.2, 0.2, 0.8, 0.9), (0.05, 0.4, 0.45, 0.95)]


def build(weights: dict[str, torch.Tensor]) -> Sam:
    """segment-anything's modules at the sizes that the tensors' shapes tell."""
    dim, _, patch, _ = weights["image_encoder.patch_embed.proj.weight"].shape
    grid = weights["image_encoder.pos_embed"].shape[1]
    depth = 1 + max(int(key.split(".")[2]) for key in weights if key.startswith("image_encoder.blocks."))
    lengths = [weights[f"image_encoder.blocks.{i}.attn.rel_pos_h"].shape for i in range(depth)]
    global_blocks = tuple(i for i, (length, _) in enumerate(lengths) if length == 2 * grid - 1)
    windowed = [length for length, _ in lengths if length != 2 * grid - 1]
    channels = weights["image_encoder.neck.0.weight"].shape[0]
    mlp = weights["image_encoder.blocks.0.mlp.lin1.weight"].shape[0]
    decoder_mlp = weights["mask_decoder.transformer.layers.0.mlp.lin1.weight"].shape[0]
    iou_hidden = weights["mask_decoder.iou_prediction_head.layers.0.weight"].shape[0]
    image_encoder = ImageEncoderViT(
        img_size=grid * patch,
        patch_size=patch,
        embed_dim=dim,
        depth=depth,
        num_heads=dim // lengths[0][1],
        mlp_ratio=mlp / dim,
        out_chans=channels,
        qkv_bias=True,
        norm_layer=partial(torch.nn.LayerNorm, eps=1e-6),
        use_rel_pos=True,
        window_size=(windowed[0] + 1) // 2 if windowed else 0,
        global_attn_indexes=global_blocks,
    )
    sam = Sam(
        image_encoder=image_encoder,
        prompt_encoder=PromptEncoder(
            embed_dim=channels,
            image_embedding_size=(grid, grid),
            input_image_size=(grid * patch, grid * patch),
            mask_in_chans=weights["prompt_encoder.mask_downscaling.3.weight"].shape[0],
        ),
        mask_decoder=MaskDecoder(
            num_multimask_outputs=weights["mask_decoder.mask_tokens.weight"].shape[0] - 1,
            transformer=TwoWayTransformer(
                depth=2, embedding_dim=channels, mlp_dim=decoder_mlp, num_heads=DECODER_HEADS
            ),
            transformer_dim=channels,
            iou_head_depth=3,
            iou_head_hidden_dim=iou_hidden,
        ),
        pixel_mean=[123.675, 116.28, 103.53],
        pixel_std=[58.395, 57.12, 57.375],
    )
    sam.load_state_dict(weights, strict=True)
    return sam.eval().requires_grad_(False)


def ours(maskmill: Path, checkpoint: Path, image: Path, prompt: list[str], folder: Path) -> list[np.ndarray]:
    out = folder / "answer"
    command = [maskmill, "predict", image, "--checkpoint", checkpoint, "--out", out, *prompt]
    subprocess.run([str(part) for part in command], check=True, stdout=subprocess.DEVNULL)
    [answer] = json.loads((folder / "answer.masks.json").read_text())["prompts"]
    return [pycocotools.mask.decode(mask["segmentation"]).astype(bool) for mask in answer["masks"]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("image", type=Path)
    parser.add_argument("--maskmill", type=Path, default=Path("target/release/maskmill"))
    arguments = parser.parse_args()

    weights = {key: value.float() for key, value in load_file(arguments.checkpoint).items()}
    predictor = SamPredictor(build(weights))
    pixels = read_rgb(arguments.image)
    predictor.set_image(pixels)
    height, width, _ = pixels.shape
    worst = 1.0
    with tempfile.TemporaryDirectory() as folder:
        prompts = [("--point", np.array(p) * [width, height]) for p in POINTS]
        prompts += [("--box", np.array(b) * [width, height, width, height]) for b in BOXES]
        for option, numbers in prompts:
            numbers = numbers.round()
            given = {"point_coords": numbers[None], "point_labels": np.ones(1)} if option == "--point" else {"box": numbers}
            wanted, scores, _ = predictor.predict(**given, multimask_output=True)
            text = ",".join(str(int(v)) for v in numbers)
            found = ours(arguments.maskmill, arguments.checkpoint, arguments.image, [option, text], Path(folder))
            assert len(found) >= 1, (option, text)
            # Each of ours is one of theirs.
            for mask in found:
                ious = [(mask & other).sum() / max((mask | other).sum(), 1) for other in wanted]
                ious += [1.0] if not mask.any() and any(not other.any() for other in wanted) else []
                worst = min(worst, max(ious))
            print(f"{option} {text}: {len(found)} masks, worst IoU so far {worst:.4f}, scores {scores.round(3)}")
    assert worst >= 0.999, worst
    print(f"the same masks, worst IoU {worst:.4f}")


if __name__ == "__main__":
    main()
