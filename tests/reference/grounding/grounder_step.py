"""The fixture of one training step of a grounder: losses, gradient norms and weights after AdamW, with autograd.

The model is the seeded `owlv2-small` as `Owlv2ForObjectDetection`; matching is SciPy's `linear_sum_assignment` over the costs of
Deformable DETR, focal loss and generalised IoU are torchvision's, AdamW and clipping are PyTorch's. One departure from
transformers: objectness learns through the whole image tower, where `objectness_predictor` detaches its features.

    python grounder_step.py                 one step, beside the other grounding fixtures

`grounder_checkpoint.py` reads a trained grounder's folder back.
"""

from pathlib import Path

import reference_common  # first: it keeps the libraries on the CPU and off the network
import torch
import torch.nn.functional as F
import torchvision
from safetensors.torch import save_file
from scipy.optimize import linear_sum_assignment
from transformers import AutoTokenizer, Owlv2ForObjectDetection, Owlv2ImageProcessor

from pixels import prepare

CHECKPOINT = "owlv2-small"
SETTINGS = {
    "class": 2.0,
    "l1": 5.0,
    "giou": 2.0,
    "objectness": 1.0,
    "focal_alpha": 0.25,
    "focal_gamma": 2.0,
    "boxes_per_object": 2,
    "dense": 0.7,
    "learning_rate": 1e-3,
    "betas": [0.9, 0.95],
    "weight_decay": 0.1,
    "clip_norm": 0.1,
}
QUERIES = ["a red disc", "a star", "a small blue striped oval", "a cat", "a cup of coffee"]
# Centre and sides in fractions of the square input, and the queries that are true; queries whose mistakes do not count;
# pairs of a patch and the object that it shows.
IMAGES = [
    {
        "image": "samples/cat.png",
        "objects": [
            {"box": [0.42, 0.31, 0.52, 0.44], "queries": [3, 0]},
            {"box": [0.15, 0.5, 0.1, 0.2], "queries": [1]},
            {"box": [0.7, 0.3, 0.25, 0.3], "queries": []},
        ],
        "uncounted": [2],
        "shown": [[2, 0], [3, 0], [5, 1], [7, 0], [6, 2]],
    },
    {
        "image": "samples/coffee.png",
        "objects": [{"box": [0.5, 0.35, 0.4, 0.5], "queries": [4]}],
        "uncounted": [],
        "shown": [[4, 0], [5, 0]],
    },
]
ROW_NOISE = 1e-6


def corners(boxes: torch.Tensor) -> torch.Tensor:
    return torchvision.ops.box_convert(boxes, "cxcywh", "xyxy")


def assign(logits: torch.Tensor, boxes: torch.Tensor, objects: list[dict]) -> list[tuple[int, int]]:
    """Pairs of a box and an object of one image, by least cost."""
    alpha, gamma = SETTINGS["focal_alpha"], SETTINGS["focal_gamma"]
    p = logits.double().sigmoid()
    negative = (1 - alpha) * p**gamma * -(1 - p + 1e-8).log()
    positive = alpha * (1 - p) ** gamma * -(p + 1e-8).log()
    rows = []
    for each in objects:
        target = torch.tensor([each["box"]], dtype=torch.float64)
        costs = (positive - negative)[:, each["queries"]]
        of_class = costs.mean(1) if each["queries"] else torch.zeros(len(boxes), dtype=torch.float64)
        l1 = torch.cdist(boxes.double(), target, p=1)[:, 0]
        giou = torchvision.ops.generalized_box_iou(corners(boxes.double()), corners(target))[:, 0]
        row = SETTINGS["class"] * of_class + SETTINGS["l1"] * l1 - SETTINGS["giou"] * giou
        rows += [row] * SETTINGS["boxes_per_object"]
    chosen_rows, patches = linear_sum_assignment(torch.stack(rows).numpy())
    return sorted((int(p), int(r) // SETTINGS["boxes_per_object"]) for r, p in zip(chosen_rows, patches))


def dense(logits: torch.Tensor, boxes: torch.Tensor, target: dict) -> torch.Tensor:
    """The loss of the patches that show one object: its true queries against all that are not, and its box."""
    false = [query for query in range(len(QUERIES)) if query not in target["queries"]]
    told = [F.cross_entropy(logits[:, [query, *false]], torch.zeros(len(logits), dtype=torch.long)) for query in target["queries"]]
    wanted = torch.tensor([target["box"]])
    l1 = (boxes - wanted).abs().sum(1).mean()
    giou = torchvision.ops.generalized_box_iou(corners(boxes), corners(wanted)).mean()
    told = sum(told) / len(told) if told else torch.zeros(())
    return SETTINGS["class"] * told + SETTINGS["l1"] * l1 + SETTINGS["giou"] * (1 - giou)


def losses_of(model: Owlv2ForObjectDetection, folder: Path) -> tuple[dict[str, torch.Tensor], list]:
    tokens = AutoTokenizer.from_pretrained(folder)
    processor = Owlv2ImageProcessor.from_pretrained(folder)
    ids = tokens(QUERIES, padding="max_length", return_tensors="pt").input_ids
    photos = [reference_common.read_photo(Path(each["image"]).name) for each in IMAGES]
    pixel_values = torch.stack([prepare(processor, photo) for photo in photos])
    repeated = ids.repeat(len(IMAGES), 1)
    mask = torch.ones_like(repeated)
    text, features, _ = model.image_text_embedder(input_ids=repeated, pixel_values=pixel_values, attention_mask=mask)
    feats = features.flatten(1, 2)
    text = text.reshape(len(IMAGES), len(QUERIES), -1)
    logits, _ = model.class_predictor(feats, text)
    boxes = model.box_predictor(feats, features)
    objectness = model.objectness_head(feats)[..., 0]

    classes, counted = torch.zeros_like(logits), torch.ones_like(logits)
    is_object = torch.zeros_like(objectness)
    found, wanted, matches = [], [], []
    for i, each in enumerate(IMAGES):
        counted[i, :, each["uncounted"]] = 0
        pairs = assign(logits[i].detach(), boxes[i].detach(), each["objects"])
        matches.append(pairs)
        for patch, number in pairs:
            target = each["objects"][number]
            classes[i, patch, target["queries"]] = 1
            counted[i, patch, target["queries"]] = 1
            is_object[i, patch] = 1
            found.append(boxes[i, patch])
            wanted.append(torch.tensor(target["box"]))
    found, wanted = torch.stack(found), torch.stack(wanted)
    focal = torchvision.ops.sigmoid_focal_loss(
        logits, classes, alpha=SETTINGS["focal_alpha"], gamma=SETTINGS["focal_gamma"], reduction="none"
    )
    giou = torch.diag(torchvision.ops.generalized_box_iou(corners(found), corners(wanted)))
    of_objects = []
    for i, each in enumerate(IMAGES):
        for number, target in enumerate(each["objects"]):
            patches = [patch for patch, shows in each["shown"] if shows == number]
            if patches:
                of_objects.append(dense(logits[i, patches], boxes[i, patches], target))
    parts = {
        "class": (focal * counted).sum() / classes.sum(),
        "l1": (found - wanted).abs().sum() / len(found),
        "giou": (1 - giou).mean(),
        "objectness": F.binary_cross_entropy_with_logits(objectness, is_object),
        "dense": sum(of_objects) / len(of_objects),
    }
    total = sum(SETTINGS[name] * value for name, value in parts.items())
    return {"total": total, **parts}, matches


def decays(name: str, parameter: torch.Tensor) -> bool:
    exempt = ("position_embedding", "token_embedding")
    return parameter.ndim > 1 and name.endswith(".weight") and not any(part in name for part in exempt)


def write_grounder_step(folder: Path) -> None:
    """Writes `grounder_step.json` and `.safetensors` into `folder`, which holds the checkpoint."""
    checkpoint = folder / CHECKPOINT
    model = Owlv2ForObjectDetection.from_pretrained(checkpoint, dtype=torch.float32).train()
    losses, matches = losses_of(model, checkpoint)
    losses["total"].backward()
    named = {name: p for name, p in model.named_parameters() if p.grad is not None}
    norms = {name: float(p.grad.norm()) for name, p in named.items()}
    groups = [
        {"params": [p], "weight_decay": SETTINGS["weight_decay"] if decays(name, p) else 0.0} for name, p in named.items()
    ]
    optimiser = torch.optim.AdamW(groups, lr=SETTINGS["learning_rate"], betas=tuple(SETTINGS["betas"]), eps=1e-8)
    # What the loss hardly depends on moves by rounding alone: the first step follows the sign of the gradient.
    clear = {}
    for name, p in named.items():
        clear[f"clear/{name}"] = (p.grad.abs() > ROW_NOISE * float(sum(n**2 for n in norms.values())) ** 0.5).to(torch.uint8)
    norm = torch.nn.utils.clip_grad_norm_(model.parameters(), SETTINGS["clip_norm"])
    optimiser.step()
    after = {f"after/{name}": p.detach().contiguous() for name, p in named.items()}
    name = "grounder_step.safetensors"
    save_file(after | clear, folder / name)
    (folder / name).chmod(0o644)
    reference_common.write_json(
        folder / "grounder_step.json",
        {
            "made_with": reference_common.made_with(),
            "checkpoint": CHECKPOINT,
            "tensors": name,
            "settings": SETTINGS,
            "queries": QUERIES,
            "images": IMAGES,
            "matches": [[list(pair) for pair in pairs] for pairs in matches],
            "losses": {part: value.item() for part, value in losses.items()},
            "gradient_norm": float(norm),
            "gradient_norms": norms,
        },
    )
    print({part: value.item() for part, value in losses.items()}, float(norm))


if __name__ == "__main__":
    torch.set_num_threads(1)
    write_grounder_step(reference_common.FIXTURES)
