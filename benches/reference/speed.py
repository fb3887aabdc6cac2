"""How fast the reference implementation is here: segment-anything 1.0 in PyTorch, on the CPU.

    python speed.py --checkpoint FILE --threads 2 --what encoder decoder --dump FILE.safetensors
    python speed.py --checkpoint FILE --threads 2 --what postprocess --logits FILE --original 1500 2250 --out FILE.json
    python speed.py --checkpoint FILE --threads 2 --what automatic --image FILE [--best] --out FILE.json
    python speed.py --threads 2 --what gemm

The benches start it to have a baseline on the same machine. Every measurement is a line of JSON on standard output,
with the raw `seconds` (wall) and `cpu_seconds` (all threads) of each run; everything else goes to standard error.

glibc's malloc returns large buffers to the kernel and faults them in again, which costs PyTorch a third of its time.
So this starts itself again with a malloc that keeps them, and with threads that sleep while they wait, so that CPU
seconds are work; `--stock-malloc` leaves the environment as it is.

| `--what` | measured | variants: `f32/` | `bf16/` |
|---|---|---|---|
| `encoder` | image encoder, one seeded random image | `eager`, `sdpa`, `compiled` | `autocast`, `sdpa`, `compiled` |
| `decoder` | prompt encoder and mask decoder, one batch of points | `eager`, `compiled` | `autocast`, `compiled` |
| `postprocess` | from `--logits` of low resolution to run lengths, no mask filtered out | `eager` | |
| `automatic` | `SamAutomaticMaskGenerator.generate` | `eager` | `compiled`, with `--best` |
| `gemm` | matrix products of ViT-B's encoder | `matmul` | `matmul` |

`sdpa` is transformers' encoder with the same weights, and `compiled` is `torch.compile` around it (`encoder`) or
around the mask decoder under autocast (`decoder`, `automatic`); compilation is part of the warm-up.

For memory, measure `automatic` alone and with `--stock-malloc`: the tuned one gives nothing back.
"""

import os
import sys

TUNED_ENVIRONMENT = {
    "MALLOC_MMAP_MAX_": "0",
    "MALLOC_TRIM_THRESHOLD_": "100000000000",
    "MALLOC_TOP_PAD_": "67108864",
    "OMP_WAIT_POLICY": "PASSIVE",
}


def start_again_tuned() -> None:
    """Replaces the process unless its environment is the tuned one: malloc and OpenMP read theirs only at the start."""
    if any(os.environ.get(name) != value for name, value in TUNED_ENVIRONMENT.items()):
        os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], os.environ | TUNED_ENVIRONMENT)


if __name__ == "__main__" and "--stock-malloc" not in sys.argv:
    start_again_tuned()

import argparse
import functools
import json
import math
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from unittest.mock import patch

import numpy as np
import torch
from safetensors.torch import load_file, save
from segment_anything import SamAutomaticMaskGenerator, automatic_mask_generator
from segment_anything.modeling import Sam
from segment_anything.utils import amg
from segment_anything.utils.transforms import ResizeLongestSide

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "tests" / "reference"))
from reference_model import ARCHITECTURES, PATCH, build, read_rgb

ENCODER_VARIANTS = ("f32/eager", "f32/sdpa", "f32/compiled", "bf16/autocast", "bf16/sdpa", "bf16/compiled")
DECODER_VARIANTS = ("f32/eager", "f32/compiled", "bf16/autocast", "bf16/compiled")
GEMM_VARIANTS = ("f32/matmul", "bf16/matmul")
BEST_DECODER = "bf16/compiled"
"""The mask decoder that `--best` sets up inside the reference's own generator."""

CORRECT_CODE = "-fno-tree-slp-vectorize"
"""Compiler option of compiled variants. GCC 12.2 gets PyTorch 2.15's AVX-512 transpose of bf16 tiles wrong without it,
and every logit of the bf16 mask decoder is NaN. The loops are vectorised with intrinsics, so it costs little."""

SAME_EMBEDDING = 1e-3
"""Largest difference of transformers' f32 embedding from segment-anything's; the embedding is of order 1."""

GEMM_SHAPES = ((4096, 768, 3072), (4096, 3072, 768), (4096, 768, 2304), (4096, 768, 768))
"""Rows, inner size and columns: ViT-B's MLP, its queries, keys and values, and its attention's output."""
GEMM_SECONDS = 0.3
"""Shortest run of a matrix product, which alone takes only 5 to 100 ms."""

GENERATOR_SETTINGS = {
    "points_per_side": 32,
    "points_per_batch": 64,
    "pred_iou_thresh": 0.88,
    "stability_score_thresh": 0.95,
    "stability_score_offset": 1.0,
    "box_nms_thresh": 0.7,
    "crop_n_layers": 0,
    "crop_nms_thresh": 0.7,
    "crop_overlap_ratio": 512 / 1500,
    "crop_n_points_downscale_factor": 1,
    "min_mask_region_area": 0,
}
"""Arguments of `SamAutomaticMaskGenerator` and its own defaults."""

class Stopwatch:
    """Wall and CPU seconds per run of a measurement, and of its parts."""

    def __init__(self) -> None:
        self.clear()

    def clear(self) -> None:
        self.seconds: list[float] = []
        self.cpu_seconds: list[float] = []
        self.parts: dict[str, dict[str, list]] = {}

    def run(self, call: Callable):
        """Times one run and returns what `call` returns."""
        cpu, wall = time.process_time(), time.perf_counter()
        result = call()
        self.seconds.append(time.perf_counter() - wall)
        self.cpu_seconds.append(time.process_time() - cpu)
        return result

    def part(self, name: str, function: Callable) -> Callable:
        """`function`, whose calls count as the part `name` of the run they happen in."""

        @functools.wraps(function)
        def timed(*args, **kwargs):
            cpu, wall = time.process_time(), time.perf_counter()
            result = function(*args, **kwargs)
            self._add(name, time.perf_counter() - wall, time.process_time() - cpu)
            return result

        return timed

    def _add(self, name: str, seconds: float, cpu_seconds: float) -> None:
        part = self.parts.setdefault(name, {"seconds": [], "cpu_seconds": [], "calls": []})
        run = len(self.seconds)
        for key, value in (("seconds", seconds), ("cpu_seconds", cpu_seconds), ("calls", 1)):
            values = part[key]
            values.extend([0] * (run + 1 - len(values)))  # runs in which the part did not happen
            values[run] += value


class Bench:
    """What all measurements share: the options, where results go, and what is kept for `--dump` and `--out`."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options
        self.tensors: dict[str, torch.Tensor] = {}
        self.outputs: dict[str, dict] = {}
        # Only results may reach the caller's pipe, so whatever libraries and compilers print goes to standard error.
        self._results = os.fdopen(os.dup(1), "w")
        os.dup2(2, 1)

    def measure(self, call: Callable, stopwatch: Stopwatch | None = None):
        """Warms up, then times the runs. Returns the stopwatch, and the result of the last run."""
        stopwatch = stopwatch or Stopwatch()
        for _ in range(self.options.warm_ups):
            stopwatch.run(call)
        stopwatch.clear()
        result = None
        for _ in range(self.options.runs):
            del result  # so that no run has to share memory with the one before
            result = stopwatch.run(call)
        return stopwatch, result

    def report(self, what: str, variant: str, stopwatch: Stopwatch, **more) -> None:
        """Prints one measurement."""
        precision, variant = variant.split("/")
        record = {
            "what": what,
            "precision": precision,
            "variant": variant,
            "seconds": stopwatch.seconds,
            "cpu_seconds": stopwatch.cpu_seconds,
            "runs": len(stopwatch.seconds),
            **more,
            "threads": torch.get_num_threads(),
            "malloc": "stock" if self.options.stock_malloc else "tuned",
            "torch": torch.__version__,
            "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        }
        if stopwatch.parts:
            record["parts"] = stopwatch.parts
        print(json.dumps(record, allow_nan=False), file=self._results, flush=True)

    def keep(self, name: str, tensor: torch.Tensor) -> None:
        """Keeps a tensor for `--dump`, in f32."""
        if self.options.dump is not None:
            self.tensors[name] = tensor.detach().float().contiguous()

    def wants(self, variant: str) -> bool:
        return self.options.variants is None or variant in self.options.variants

    def write_files(self) -> None:
        if self.options.dump is not None:
            self.options.dump.write_bytes(save(self.tensors))
        if self.options.out is not None:
            self.options.out.write_text(json.dumps(self.outputs, allow_nan=False) + "\n", encoding="ascii")


def log(message: str) -> None:
    print(f"[{time.strftime('%H:%M:%S')}] {message}", file=sys.stderr, flush=True)


def load(checkpoint: Path) -> tuple[str, Sam]:
    """Loads a checkpoint under the official key names. Returns the architecture its shapes imply, and the model."""
    if checkpoint.suffix == ".safetensors":
        weights = load_file(checkpoint)
    else:
        weights = torch.load(checkpoint, weights_only=True)
    _, grid, _, width = weights["image_encoder.pos_embed"].shape
    depth = len([key for key in weights if key.startswith("image_encoder.blocks.") and key.endswith(".norm1.weight")])
    for name, arch in ARCHITECTURES.items():
        if (arch.grid, arch.width, arch.depth) == (grid, width, depth):
            sam = build(name)
            sam.load_state_dict(weights)
            return name, sam
    raise SystemExit(f"{checkpoint}: no known architecture has {depth} blocks of {width} over {grid} x {grid} patches")


def in_precision(variant: str, function: Callable) -> Callable:
    """`function`, under autocast in a bf16 variant; its results are f32 in any."""
    if variant.startswith("f32/"):
        return function

    def run(*args, **kwargs):
        with torch.autocast("cpu", torch.bfloat16):
            result = function(*args, **kwargs)
        return result.float() if isinstance(result, torch.Tensor) else tuple(tensor.float() for tensor in result)

    return run


def image_encoder(architecture: str, sam: Sam, variant: str) -> Callable:
    """The image encoder, `[1, 3, S, S]` f32 -> `[1, C, G, G]` f32."""
    if not is_transformers(variant):
        return in_precision(variant, sam.image_encoder.forward)
    dtype = torch.float32 if variant.startswith("f32/") else torch.bfloat16
    encoder = transformers_encoder(architecture, sam).to(dtype)
    forward = compiled(encoder) if variant.endswith("/compiled") else encoder
    return lambda image: forward(image.to(dtype)).last_hidden_state.float()


def is_transformers(encoder_variant: str) -> bool:
    """Whether this is transformers' encoder, and not segment-anything's own."""
    return encoder_variant.endswith(("/sdpa", "/compiled"))


def mask_decoder(sam: Sam, variant: str) -> Callable:
    """The mask decoder, with the arguments and results of the reference's."""
    forward = sam.mask_decoder.forward
    return in_precision(variant, compiled(forward) if variant.endswith("/compiled") else forward)


def compiled(function: Callable) -> Callable:
    """`function` as PyTorch compiles it best, with the weights converted and packed ahead of time."""
    options = {"freezing": True, "cpp.cxx": (f"{os.environ.get('CXX', 'g++')} {CORRECT_CODE}",)}
    return torch.compile(function, options=options)


def transformers_encoder(architecture: str, sam: Sam):
    """transformers' image encoder with fused attention, and the weights of `sam`.

    In bf16 it is the fastest that PyTorch users can set up without compiling: segment-anything's own attention writes
    every head's whole matrix of weights to memory.
    """
    from transformers import SamVisionConfig
    from transformers.models.sam.modeling_sam import SamVisionEncoder

    arch = ARCHITECTURES[architecture]
    config = SamVisionConfig(
        hidden_size=arch.width,
        output_channels=arch.channels,
        num_hidden_layers=arch.depth,
        num_attention_heads=arch.heads,
        image_size=arch.image_size,
        patch_size=PATCH,
        window_size=arch.window,
        global_attn_indexes=list(arch.global_blocks),
        attn_implementation="sdpa",
    )
    encoder = SamVisionEncoder(config)
    encoder.load_state_dict({transformers_key(key): value for key, value in sam.image_encoder.state_dict().items()})
    attention = type(encoder.layers[0].attn).__name__
    assert attention == "SamVisionSdpaAttention", f"transformers chose {attention}"
    return encoder.eval().requires_grad_(False)


def transformers_key(key: str) -> str:
    """The name in transformers' image encoder of a tensor of segment-anything's."""
    for official, theirs in (
        ("patch_embed.proj.", "patch_embed.projection."),
        ("blocks.", "layers."),
        (".norm1.", ".layer_norm1."),
        (".norm2.", ".layer_norm2."),
        ("neck.0.", "neck.conv1."),
        ("neck.1.", "neck.layer_norm1."),
        ("neck.2.", "neck.conv2."),
        ("neck.3.", "neck.layer_norm2."),
    ):
        key = key.replace(official, theirs)
    return key


def distance(result: torch.Tensor, expected: torch.Tensor) -> dict[str, float]:
    """How far a result is from the f32 one, and how large that is.

    A result with NaN or infinity is an error: its time would be no baseline.
    """
    assert result.isfinite().all(), f"{(~result.isfinite()).sum()} of {result.numel()} values are not finite"
    difference = result - expected
    return {
        "max_abs": difference.abs().max().item(),
        "rms": difference.square().mean().sqrt().item(),
        "f32_max_abs": expected.abs().max().item(),
        "f32_rms": expected.square().mean().sqrt().item(),
    }


@torch.no_grad()
def measure_encoder(bench: Bench, architecture: str, sam: Sam) -> None:
    side = sam.image_encoder.img_size
    pixels = np.random.default_rng(bench.options.seed).integers(0, 256, (1, 3, side, side))
    image = sam.preprocess(torch.from_numpy(pixels).float())
    bench.keep("encoder/input", image[0])

    embeddings: dict[str, torch.Tensor] = {}

    def f32(variant: str) -> torch.Tensor:
        if variant not in embeddings:
            embeddings[variant] = image_encoder(architecture, sam, variant)(image)
        return embeddings[variant]

    for variant in filter(bench.wants, ENCODER_VARIANTS):
        log(f"encoder {variant}")
        encode = image_encoder(architecture, sam, variant)
        stopwatch, embeddings[variant] = bench.measure(lambda: encode(image))
        more = {"image_size": side, "from_f32": distance(embeddings[variant], f32("f32/eager"))}
        if is_transformers(variant):
            apart = distance(f32("f32/sdpa"), f32("f32/eager"))["max_abs"]
            assert apart <= SAME_EMBEDDING, f"transformers' f32 embedding is {apart} from segment-anything's"
            more["transformers_f32_max_abs"] = apart
        bench.keep(f"encoder/{variant}", embeddings[variant][0])
        bench.report("encoder", variant, stopwatch, **more)


@torch.no_grad()
def measure_decoder(bench: Bench, sam: Sam) -> None:
    options = bench.options
    channels, (grid, _) = sam.prompt_encoder.embed_dim, sam.prompt_encoder.image_embedding_size
    if options.embedding is not None:
        embedding = load_file(options.embedding)["image_embedding"].float().reshape(1, channels, grid, grid)
    else:
        normal = np.random.default_rng(options.seed).standard_normal((1, channels, grid, grid), dtype=np.float32)
        embedding = torch.from_numpy(normal)  # the encoder ends in a layer norm, so of the size of a real one
    # f64 until the prompt encoder rounds them, as in SamAutomaticMaskGenerator
    points = amg.build_point_grid(math.ceil(math.sqrt(options.points_per_batch)))[: options.points_per_batch]
    points = torch.from_numpy(points * sam.image_encoder.img_size)[:, None]
    labels = torch.ones(points.shape[:2], dtype=torch.int)
    bench.keep("decoder/image_embedding", embedding[0])
    bench.keep("decoder/points", points[:, 0])

    def decode(decoder: Callable) -> tuple[torch.Tensor, torch.Tensor]:
        sparse, dense = sam.prompt_encoder(points=(points, labels), boxes=None, masks=None)
        return decoder(
            image_embeddings=embedding,
            image_pe=sam.prompt_encoder.get_dense_pe(),
            sparse_prompt_embeddings=sparse,
            dense_prompt_embeddings=dense,
            multimask_output=True,
        )

    expected = None
    for variant in filter(bench.wants, DECODER_VARIANTS):
        log(f"decoder {variant}")
        decoder = mask_decoder(sam, variant)
        stopwatch, (logits, iou) = bench.measure(lambda: decode(decoder))
        if expected is None:
            expected = (logits, iou) if variant == "f32/eager" else decode(sam.mask_decoder)
        bench.keep(f"decoder/{variant}/low_res_logits", logits)
        bench.keep(f"decoder/{variant}/iou_predictions", iou)
        bench.report(
            "decoder",
            variant,
            stopwatch,
            points=len(points),
            from_f32={
                "low_res_logits": distance(logits, expected[0]),
                "iou_predictions": distance(iou, expected[1]),
            },
        )


@torch.no_grad()
def measure_postprocess(bench: Bench, sam: Sam) -> None:
    """The steps of `SamAutomaticMaskGenerator._process_batch` after the model, with its own functions."""
    options = bench.options
    original = tuple(options.original)
    side = sam.image_encoder.img_size
    input_size = ResizeLongestSide.get_preprocess_shape(*original, side)
    low_side = 4 * side // PATCH
    low_res = torch.from_numpy(np.fromfile(options.logits, dtype="<f4")).reshape(-1, 1, low_side, low_side)
    bench.keep("postprocess/low_res_logits", low_res[:, 0])

    stopwatch = Stopwatch()
    upscale = stopwatch.part("upscale", sam.postprocess_masks)
    stability_score = stopwatch.part("stability", amg.calculate_stability_score)
    threshold = stopwatch.part("threshold", lambda logits: logits > sam.mask_threshold)
    mask_to_box = stopwatch.part("box", amg.batched_mask_to_box)
    mask_to_rle = stopwatch.part("rle", amg.mask_to_rle_pytorch)

    def postprocess():
        logits = upscale(low_res, input_size, original).flatten(0, 1)
        stability = stability_score(logits, sam.mask_threshold, options.stability_score_offset)
        masks = threshold(logits)
        del logits  # where the reference overwrites them
        return stability, mask_to_box(masks), mask_to_rle(masks)

    log(f"postprocess f32/eager, {len(low_res)} masks at {original}")
    stopwatch, (stability, boxes, rles) = bench.measure(postprocess, stopwatch)
    bench.report("postprocess", "f32/eager", stopwatch, masks=len(low_res), original=original)
    if options.out is None:
        return
    bench.outputs["postprocess"] = {
        "height": original[0],
        "width": original[1],
        "masks": [
            {
                "area": amg.area_from_rle(rle),
                "box_xyxy": box,  # the last row and column are inside
                "stability_score": None if math.isnan(score) else score,  # 0 / 0
                "segmentation": amg.coco_encode_rle(rle),
            }
            for rle, box, score in zip(rles, boxes.tolist(), stability.tolist(), strict=True)
        ],
    }


def measure_automatic(bench: Bench, architecture: str, sam: Sam) -> None:
    options = bench.options
    image = read_rgb(options.image)
    settings = {name: getattr(options, name) for name in GENERATOR_SETTINGS}
    generator = SamAutomaticMaskGenerator(sam, output_mode="coco_rle", **settings)
    stopwatch = Stopwatch()
    encoder, decoder = (options.best_encoder, BEST_DECODER) if options.best else ("f32/eager", "f32/eager")
    parts = [
        (generator.predictor.transform, "apply_image", "resize", generator.predictor.transform.apply_image),
        (sam, "preprocess", "normalise", sam.preprocess),
        (sam.image_encoder, "forward", "encoder", image_encoder(architecture, sam, encoder)),
        (sam.prompt_encoder, "forward", "prompt_encoder", sam.prompt_encoder.forward),
        (sam.mask_decoder, "forward", "decoder", mask_decoder(sam, decoder)),
        (sam, "postprocess_masks", "upscale", sam.postprocess_masks),
    ]
    for function, part in (
        ("calculate_stability_score", "stability"),
        ("batched_mask_to_box", "box"),
        ("mask_to_rle_pytorch", "rle"),
        ("batched_nms", "nms"),
        ("uncrop_masks", "uncrop"),
        ("coco_encode_rle", "coco_rle"),
        ("remove_small_regions", "small_regions"),
    ):
        parts.append((automatic_mask_generator, function, part, getattr(automatic_mask_generator, function)))
    parts.append((amg.MaskData, "filter", "filter", amg.MaskData.filter))

    log(f"automatic {decoder}, {options.image.name}")
    with ExitStack() as patches:
        for owner, function, part, original in parts:
            patches.enter_context(patch.object(owner, function, stopwatch.part(part, original)))
        stopwatch, annotations = bench.measure(lambda: generator.generate(image), stopwatch)
    if not annotations:
        raise SystemExit(f"{options.image.name}: no masks, so the time would be no baseline")
    height, width = image.shape[:2]
    bench.report(
        "automatic",
        decoder,
        stopwatch,
        encoder=encoder,
        image=options.image.name,
        height=height,
        width=width,
        settings=settings,
        masks=len(annotations),
        peak_rss_bytes=peak_rss_bytes(),
    )
    bench.outputs["automatic"] = {
        "image": options.image.name,
        "height": height,
        "width": width,
        "settings": settings,
        # boxes are floats in the reference when a batch of points ended empty
        "masks": [annotation | {"bbox": [int(value) for value in annotation["bbox"]]} for annotation in annotations],
    }


def peak_rss_bytes() -> int:
    """The most memory that was resident in this process so far, whatever was measured before.

    Not `getrusage`, which counts what the process was before it became this program.
    """
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    raise RuntimeError("no VmHWM in /proc/self/status")


@torch.no_grad()
def measure_gemm(bench: Bench) -> None:
    generator = torch.Generator().manual_seed(bench.options.seed)
    for variant in filter(bench.wants, GEMM_VARIANTS):
        dtype = torch.float32 if variant.startswith("f32/") else torch.bfloat16
        for rows, inner, columns in GEMM_SHAPES:
            log(f"gemm {variant}, {rows} x {inner} x {columns}")
            left = torch.randn(rows, inner, generator=generator).to(dtype)
            right = torch.randn(inner, columns, generator=generator).to(dtype)
            product = torch.empty(rows, columns, dtype=dtype)
            once, _ = bench.measure(lambda: torch.matmul(left, right, out=product))
            calls = math.ceil(GEMM_SECONDS / min(once.seconds))

            def products() -> None:
                for _ in range(calls):
                    torch.matmul(left, right, out=product)

            stopwatch, _ = bench.measure(products)
            operations = 2 * rows * inner * columns * calls
            bench.report(
                "gemm",
                variant,
                stopwatch,
                shape=[rows, inner, columns],
                calls=calls,
                flop=operations,
                gflops=[operations / seconds / 1e9 for seconds in stopwatch.seconds],
            )


def parse_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    measurements = ("encoder", "decoder", "postprocess", "automatic", "gemm")
    parser.add_argument("--what", nargs="+", required=True, choices=measurements, help="what to measure, in order")
    parser.add_argument("--checkpoint", type=Path, help=".safetensors or .pth with the official key names")
    parser.add_argument("--threads", type=int, required=True, help="PyTorch threads")
    parser.add_argument("--runs", type=int, default=3, help="timed runs of each measurement")
    parser.add_argument("--warm-ups", type=int, default=1, help="runs before those, which are not reported")
    variants = sorted({*ENCODER_VARIANTS, *DECODER_VARIANTS, *GEMM_VARIANTS})
    parser.add_argument(
        "--variants", nargs="+", choices=variants, help="only these of encoder, decoder and gemm; all when left out"
    )
    parser.add_argument("--seed", type=int, default=0, help="of the encoder's image and the decoder's embedding")
    parser.add_argument("--embedding", type=Path, help="decoder: .safetensors with `image_embedding`, not a seeded one")
    parser.add_argument("--logits", type=Path, help="postprocess: raw little-endian f32, masks of 4 G x 4 G")
    parser.add_argument("--original", type=int, nargs=2, metavar=("HEIGHT", "WIDTH"), help="postprocess: photo's size")
    parser.add_argument("--image", type=Path, help="automatic: photo")
    parser.add_argument("--best", action="store_true", help="automatic: compiled bf16 mask decoder and bf16 encoder")
    parser.add_argument(
        "--best-encoder", default="bf16/autocast", choices=ENCODER_VARIANTS, help="automatic: the encoder of --best"
    )
    parser.add_argument("--dump", type=Path, help="write inputs and results of encoder and decoder: .safetensors")
    parser.add_argument("--out", type=Path, help="write the masks of postprocess and automatic: JSON")
    parser.add_argument("--stock-malloc", action="store_true", help="leave malloc and OpenMP as they are")
    for name, default in GENERATOR_SETTINGS.items():
        parser.add_argument(
            "--" + name.replace("_", "-"), type=type(default), default=default, help=f"automatic: {default:.4g}"
        )
    options = parser.parse_args()
    for what, needed in (
        ("encoder", ["checkpoint"]),
        ("decoder", ["checkpoint"]),
        ("postprocess", ["checkpoint", "logits", "original"]),
        ("automatic", ["checkpoint", "image"]),
    ):
        missing = [f"--{name}" for name in needed if getattr(options, name) is None]
        if what in options.what and missing:
            parser.error(f"{what} needs {' and '.join(missing)}")
    if options.runs < 1 or options.warm_ups < 0 or options.threads < 1:
        parser.error("--runs and --threads must be at least 1, and --warm-ups at least 0")
    return options


def main() -> None:
    options = parse_options()
    torch.set_num_threads(options.threads)
    bench = Bench(options)
    if options.what != ["gemm"]:
        architecture, sam = load(options.checkpoint)
        log(f"{options.checkpoint.name}: {architecture}")
    for what in options.what:
        match what:
            case "encoder":
                measure_encoder(bench, architecture, sam)
            case "decoder":
                measure_decoder(bench, sam)
            case "postprocess":
                measure_postprocess(bench, sam)
            case "automatic":
                measure_automatic(bench, architecture, sam)
            case "gemm":
                measure_gemm(bench)
    bench.write_files()


if __name__ == "__main__":
    main()
