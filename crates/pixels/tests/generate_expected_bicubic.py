"""Writes torchvision_bicubic.json: digests of torchvision's antialiased bicubic resizes of seeded noise.

Run on an x86-64 CPU with these versions:

    python3 -m venv venv && venv/bin/pip install "torch==2.15.0" "torchvision==0.29.2" "pillow==12.3.0"
    venv/bin/python crates/pixels/tests/generate_expected_bicubic.py
"""

import json
import pathlib

import torch
import torchvision
from torchvision.transforms.v2 import InterpolationMode
from torchvision.transforms.v2.functional import resize

from generate_expected import fnv1a, noise

# (width, height) -> (width, height)
CASES = [
    # Reductions, as the models' inputs are made: CLIP keeps the aspect, OWL-ViT does not.
    ((640, 427), (335, 224)), ((427, 640), (224, 335)), ((451, 300), (96, 64)), ((1023, 681), (76, 76)),
    ((517, 389), (48, 48)), ((255, 257), (254, 256)), ((1001, 99), (1000, 98)),
    # Enlargements: where a weight is 1, its fraction has 14 bits.
    ((100, 67), (334, 224)), ((67, 100), (224, 334)), ((13, 7), (76, 76)), ((2, 2), (63, 64)), ((50, 30), (100, 60)),
    # One axis each way, and one axis unchanged.
    ((300, 20), (64, 76)), ((20, 300), (76, 64)), ((333, 50), (100, 50)), ((50, 333), (50, 100)),
    ((50, 33), (99, 33)), ((33, 50), (33, 99)), ((64, 48), (64, 48)),
    # Sides of one pixel. Torch 2.15 cannot reduce to 1 x 1.
    ((1, 1), (1, 1)), ((1, 1), (64, 48)), ((2000, 1), (64, 1)), ((1, 2000), (7, 9)), ((2000, 3), (1, 2)),
    ((255, 255), (2, 1)), ((3, 5), (500, 2)), ((3, 1000), (2, 100)),
]


def case(index, source, target):
    extreme = index % 2 == 1
    pixels = bytearray(noise(index, source[0] * source[1] * 3, extreme))
    image = torch.frombuffer(pixels, dtype=torch.uint8).reshape(source[1], source[0], 3).permute(2, 0, 1).contiguous()
    resized = resize(image, [target[1], target[0]], InterpolationMode.BICUBIC, antialias=True)
    data = resized.permute(1, 2, 0).contiguous().numpy().tobytes()
    return {"seed": index, "extreme": extreme, "source": source, "target": target, "fnv1a": fnv1a(data)}


def main():
    cases = [json.dumps(case(i, *sizes)) for i, sizes in enumerate(CASES)]
    versions = (torch.__version__.split("+")[0], torchvision.__version__.split("+")[0])
    text = '{"torch": "%s", "torchvision": "%s", "cases": [\n%s\n]}\n' % (*versions, ",\n".join(cases))
    pathlib.Path(__file__).with_name("torchvision_bicubic.json").write_text(text)


if __name__ == "__main__":
    main()
