"""`tokens.json`: the ids that `transformers.CLIPTokenizer` gives to every string, in the ways checkpoints need them."""

from pathlib import Path

from transformers import CLIPTokenizer, PreTrainedTokenizerFast

from reference_common import made_with, write_json
from strings import HAND_PICKED, fuzzed_strings

CLIP_CONTEXT = 77
OWL_CONTEXT = 16
OWL_PAD = "!"
"""The pad token of every OWLv2 and OWL-ViT checkpoint: id 0. Being special, it is also cut out of the text."""

OWL_FUZZED = 60
"""How many of the fuzzed strings are also padded to OWL's context; all hand-picked ones are."""


def ids(tokenizer, text: str, **arguments) -> list[int]:
    return tokenizer(text, **arguments)["input_ids"]


def clip_ids(tokenizer, text: str) -> list[int]:
    return ids(tokenizer, text, truncation=True, max_length=CLIP_CONTEXT)


def check_loading_paths(folder: Path, tokenizer: CLIPTokenizer, texts: list[str]) -> None:
    """Stops when `vocab.json` + `merges.txt` and the `tokenizer.json` saved from them disagree on a string."""
    serialized = PreTrainedTokenizerFast(tokenizer_file=str(folder / "tokenizer.json"))
    for text in texts:
        if ids(tokenizer, text) != ids(serialized, text):
            raise SystemExit(f"{folder}: {text!r} has other ids by tokenizer.json than by vocab.json + merges.txt")


def write_token_ids(fixtures: Path, path: Path) -> None:
    """Writes `tokens.json`; `fixtures` holds the tokenizers that `clip_tokenizer.write_tokenizers` wrote."""
    full = CLIPTokenizer.from_pretrained(fixtures / "clip-tokenizer")
    owl = CLIPTokenizer.from_pretrained(fixtures / "clip-tokenizer", pad_token=OWL_PAD)
    small_folder = fixtures / "small-tokenizer"
    small = CLIPTokenizer(vocab=str(small_folder / "vocab.json"), merges=str(small_folder / "merges.txt"))
    fuzzed = fuzzed_strings()
    texts = HAND_PICKED + fuzzed
    check_loading_paths(small_folder, small, texts)

    cases = []
    for index, text in enumerate(texts):
        case = {
            "text": text,
            "ids": clip_ids(full, text),
            "count": len(ids(full, text)),
            "small_ids": clip_ids(small, text),
            "small_count": len(ids(small, text)),
        }
        if index < len(HAND_PICKED) + OWL_FUZZED:
            case["owl_ids"] = ids(owl, text, padding="max_length", truncation=True, max_length=OWL_CONTEXT)
            case["owl_count"] = len(ids(owl, text))
        cases.append(case)
    truncated = sum(case["count"] > CLIP_CONTEXT for case in cases)
    print(f"{len(cases)} strings, {len(fuzzed)} of them fuzzed; {truncated} are longer than {CLIP_CONTEXT} tokens")
    write_json(
        path,
        {
            "made_with": made_with(),
            "context": CLIP_CONTEXT,
            "owl_context": OWL_CONTEXT,
            "owl_pad": OWL_PAD,
            "hand_picked": len(HAND_PICKED),
            "cases": cases,
        },
    )
