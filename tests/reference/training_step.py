"""The training-step fixture: losses, gradients and weights of one AdamW step, with autograd over segment-anything's modules.

Segment-anything publishes no training code. The recipe is its paper's (Kirillov et al. 2023, appendix A) as
`crates/train` documents it; focal loss is torchvision's, AdamW and clipping are PyTorch's.
"""

import json
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from segment_anything.modeling import Sam
from segment_anything.utils.transforms import ResizeLongestSide
from torchvision.ops import sigmoid_focal_loss

from fixture_files import made_with, repository_path, write_json
from reference_model import REPOSITORY, read_rgb

SETTINGS = {
    "focal": 20.0,
    "dice": 1.0,
    "iou": 1.0,
    "focal_alpha": 0.25,
    "focal_gamma": 2.0,
    "learning_rate": 1e-3,
    "betas": [0.9, 0.95],
    "weight_decay": 0.1,
    "layer_decay": 0.8,
    "clip_norm": 1.0,
}

# Per image two points and a box, in pixels of the model's input; ellipses as masks: centre x, y and radii.
PROMPTS = {
    "coffee.png": [
        {"point": [60, 40], "ellipse": [64, 44, 30, 24], "clicks": [[80.0, 50.0, 1], [20.0, 20.0, 0]]},
        {"point": [30, 60], "ellipse": [32, 58, 12, 9], "clicks": [[50.0, 60.0, 0], [28.5, 55.0, 1]]},
        {"box": [70.5, 10.0, 110.0, 60.25], "ellipse": [90, 36, 19, 25], "clicks": [[90.0, 30.0, 1], [64.0, 30.0, 0]]},
    ],
    "fig.png": [
        {"point": [50, 90], "ellipse": [48, 84, 26, 30], "clicks": [[48.0, 60.0, 1], [100.0, 90.0, 0]]},
        {"point": [20, 20], "ellipse": [22, 24, 9, 14], "clicks": [[22.0, 35.0, 1], [40.0, 24.0, 0]]},
        {"box": [8.0, 8.0, 80.0, 120.0], "ellipse": [44, 64, 34, 54], "clicks": [[44.0, 110.0, 1], [90.0, 64.0, 0]]},
    ],
}
ROUNDS = 3


def ellipse(side: int, cx: float, cy: float, rx: float, ry: float) -> np.ndarray:
    y, x = np.mgrid[:side, :side]
    return ((x - cx) / rx) ** 2 + ((y - cy) / ry) ** 2 <= 1.0


def low_res(mask: np.ndarray, side: int) -> torch.Tensor:
    stride = mask.shape[0] // side
    counts = mask.reshape(side, stride, side, stride).sum(axis=(1, 3))
    return torch.from_numpy(2 * counts >= stride * stride).float()


def points_of(prompts: list[dict], rounds: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Clicks so far, then the box's corners or the padding point."""
    coordinates, labels = [], []
    for prompt in prompts:
        clicks = ([[*prompt["point"], 1]] if "point" in prompt else []) + prompt["clicks"][:rounds]
        xy, of = [c[:2] for c in clicks], [c[2] for c in clicks]
        if "box" in prompt:
            x0, y0, x1, y1 = prompt["box"]
            xy, of = [*xy, [x0, y0], [x1, y1]], [*of, 2, 3]
        else:
            xy, of = [*xy, [0.0, 0.0]], [*of, -1]
        coordinates.append(xy)
        labels.append(of)
    return torch.tensor(coordinates, dtype=torch.float32), torch.tensor(labels)


def embed(sam: Sam, coordinates: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """`_embed_points` without its padding: the coordinates have theirs. Labels 2 and 3 are box corners."""
    encoder = sam.prompt_encoder
    points = encoder.pe_layer.forward_with_coords(coordinates + 0.5, encoder.input_image_size)
    kinds = torch.stack([embedding.weight[0] for embedding in encoder.point_embeddings])
    known = (labels >= 0)[..., None]
    return torch.where(known, points + kinds[labels.clamp(min=0)], encoder.not_a_point_embed.weight[0])


def batch_loss(sam: Sam) -> dict[str, torch.Tensor]:
    side = sam.image_encoder.img_size // 4
    transform = ResizeLongestSide(sam.image_encoder.img_size)
    total = {"total": 0.0, "focal": 0.0, "dice": 0.0, "iou": 0.0}
    answers = []
    for photo, prompts in PROMPTS.items():
        pixels = transform.apply_image(read_rgb(REPOSITORY / "samples" / photo))
        image = torch.as_tensor(pixels).permute(2, 0, 1)[None].float()
        embedding = sam.image_encoder(sam.preprocess(image))
        answers.append((embedding, prompts))
    masks = torch.stack(
        [low_res(ellipse(sam.image_encoder.img_size, *p["ellipse"]), side) for _, ps in answers for p in ps]
    )[:, None]
    feedback = [None] * len(answers)
    for round_ in range(ROUNDS):
        logits, predicted, allowed = [], [], []
        for i, (embedding, prompts) in enumerate(answers):
            sparse = embed(sam, *points_of(prompts, round_))
            if feedback[i] is None:
                dense = sam.prompt_encoder.no_mask_embed.weight.reshape(1, -1, 1, 1)
                dense = dense.expand(len(prompts), -1, *sam.prompt_encoder.image_embedding_size)
            else:
                dense = sam.prompt_encoder._embed_masks(feedback[i])
            low, iou = sam.mask_decoder.predict_masks(
                image_embeddings=embedding,
                image_pe=sam.prompt_encoder.get_dense_pe(),
                sparse_prompt_embeddings=sparse,
                dense_prompt_embeddings=dense,
            )
            several = torch.tensor([round_ == 0 and "point" in p for p in prompts])[:, None]
            may = (torch.arange(low.shape[1]) > 0)[None] == several
            chosen = iou.detach().masked_fill(~may, -torch.inf).argmax(1)
            feedback[i] = low.detach()[torch.arange(len(prompts)), chosen][:, None]
            logits.append(low)
            predicted.append(iou)
            allowed.append(may)
        logits, predicted, allowed = torch.cat(logits), torch.cat(predicted), torch.cat(allowed)
        target = masks.expand_as(logits)
        focal = sigmoid_focal_loss(
            logits, target, alpha=SETTINGS["focal_alpha"], gamma=SETTINGS["focal_gamma"], reduction="none"
        ).mean((2, 3))
        inside = logits.sigmoid()
        dice = 1 - (2 * (inside * target).sum((2, 3)) + 1) / (inside.sum((2, 3)) + target.sum((2, 3)) + 1)
        both = SETTINGS["focal"] * focal + SETTINGS["dice"] * dice
        best = both.masked_fill(~allowed, torch.inf).argmin(1, keepdim=True)
        hard = logits.detach() > 0
        intersection = (hard * target).sum((2, 3))
        true_iou = intersection / (hard.sum((2, 3)) + target.sum((2, 3)) - intersection).clamp(min=1)
        iou = ((predicted - true_iou) ** 2)[allowed].mean()
        parts = {"focal": focal.gather(1, best).mean(), "dice": dice.gather(1, best).mean(), "iou": iou}
        parts["total"] = both.gather(1, best).mean() + SETTINGS["iou"] * iou
        for name, value in parts.items():
            total[name] = total[name] + value / ROUNDS
    return total


def groups(sam: Sam) -> list[dict]:
    """A parameter group for each tensor: its share of the learning rate by layer, and whether it decays."""
    depth = len(sam.image_encoder.blocks)
    result = []
    for name, parameter in sam.named_parameters():
        scale = 1.0
        if name.startswith("image_encoder."):
            rest = name.removeprefix("image_encoder.")
            layer = 0
            if rest.startswith("blocks."):
                layer = int(rest.split(".")[1]) + 1
            elif rest.startswith("neck."):
                layer = depth + 1
            scale = SETTINGS["layer_decay"] ** (depth + 1 - layer)
        exempt = ("rel_pos", "_embed.weight", "point_embeddings", "iou_token", "mask_tokens")
        decays = parameter.ndim > 1 and name.endswith(".weight") and not any(part in name for part in exempt)
        result.append(
            {
                "params": [parameter],
                "lr": SETTINGS["learning_rate"] * scale,
                "weight_decay": SETTINGS["weight_decay"] if decays else 0.0,
            }
        )
    return result


def write_training_step(sam: Sam, checkpoint: Path, folder: Path) -> None:
    sam.train().requires_grad_(True)
    losses = batch_loss(sam)
    losses["total"].backward()
    named = dict(sam.named_parameters())
    gradients = {name: parameter.grad.clone() for name, parameter in named.items() if parameter.grad is not None}
    optimiser = torch.optim.AdamW(groups(sam), betas=tuple(SETTINGS["betas"]), eps=1e-8)
    norm = torch.nn.utils.clip_grad_norm_(sam.parameters(), SETTINGS["clip_norm"])
    optimiser.step()
    tensors = {f"gradient/{name}": value.contiguous() for name, value in gradients.items()}
    tensors |= {f"after/{name}": parameter.detach().contiguous() for name, parameter in named.items()}
    name = "training_step.safetensors"
    save_file(tensors, folder / name)
    write_json(
        folder / "training_step.json",
        {
            "made_with": made_with(),
            "checkpoint": repository_path(checkpoint),
            "tensors": name,
            "settings": SETTINGS,
            "rounds": ROUNDS,
            "prompts": PROMPTS,
            "losses": {part: value.item() for part, value in losses.items()},
            "gradient_norm": float(norm),
        },
    )
    print(json.dumps({part: value.item() for part, value in losses.items()}), float(norm))
