"""CLIP's tokenizer as Hugging Face lays it out, in full and trimmed, from the merges that open_clip packages.

`bpe_simple_vocab_16e6.txt.gz` is OpenAI CLIP's (MIT). The vocabulary follows from it: 256 byte symbols, the same at the
end of a word, one symbol per merge, and the two special tokens.
"""

import gzip
import json
import shutil
from pathlib import Path

import open_clip
from transformers import CLIPTokenizer

START, END = "<|startoftext|>", "<|endoftext|>"
END_OF_WORD = "</w>"
MERGES = 48894  # the file holds more; CLIP reads these, for a vocabulary of 49408
SMALL_MERGES = 800
VERSION_LINE = "#version: 0.2"

VOCABULARY_FILES = ("vocab.json", "merges.txt")
TOKENIZER_FILES = ("tokenizer.json",)

LICENSE = """\
vocab.json and merges.txt are derived from bpe_simple_vocab_16e6.txt.gz of OpenAI CLIP
(https://github.com/openai/CLIP), which is distributed under this licence:

MIT License

Copyright (c) 2021 OpenAI

Permission is hereby granted, free of charge, to any person obtaining a copy
of this software and associated documentation files (the "Software"), to deal
in the Software without restriction, including without limitation the rights
to use, copy, modify, merge, publish, distribute, sublicense, and/or sell
copies of the Software, and to permit persons to whom the Software is
furnished to do so, subject to the following conditions:

The above copyright notice and this permission notice shall be included in all
copies or substantial portions of the Software.

THE SOFTWARE IS PROVIDED "AS IS", WITHOUT WARRANTY OF ANY KIND, EXPRESS OR
IMPLIED, INCLUDING BUT NOT LIMITED TO THE WARRANTIES OF MERCHANTABILITY,
FITNESS FOR A PARTICULAR PURPOSE AND NONINFRINGEMENT. IN NO EVENT SHALL THE
AUTHORS OR COPYRIGHT HOLDERS BE LIABLE FOR ANY CLAIM, DAMAGES OR OTHER
LIABILITY, WHETHER IN AN ACTION OF CONTRACT, TORT OR OTHERWISE, ARISING FROM,
OUT OF OR IN CONNECTION WITH THE SOFTWARE OR THE USE OR OTHER DEALINGS IN THE
SOFTWARE.
"""


def byte_symbols() -> list[str]:
    """The printable character that stands for each byte, in CLIP's order: printable bytes first, then the others."""
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    others = [byte for byte in range(256) if byte not in printable]
    return [chr(byte) for byte in printable] + [chr(256 + index) for index in range(len(others))]


def read_merges(count: int) -> list[str]:
    """The first `count` merges of the packaged file, as `"left right"`."""
    packaged = Path(open_clip.__file__).parent / "bpe_simple_vocab_16e6.txt.gz"
    lines = gzip.decompress(packaged.read_bytes()).decode("utf-8").split("\n")
    return lines[1 : 1 + count]


def write_vocabulary(folder: Path, merge_count: int) -> None:
    """Writes `vocab.json` and `merges.txt`, with the licence beside them."""
    folder.mkdir(parents=True, exist_ok=True)
    symbols, merges = byte_symbols(), read_merges(merge_count)
    at_word_end = [symbol + END_OF_WORD for symbol in symbols]
    tokens = [*symbols, *at_word_end, *(merge.replace(" ", "") for merge in merges), START, END]
    vocabulary = {token: index for index, token in enumerate(tokens)}
    if len(vocabulary) != 512 + merge_count + 2:
        raise SystemExit(f"{len(tokens) - len(vocabulary)} tokens of the vocabulary are there twice")
    compact = json.dumps(vocabulary, ensure_ascii=False, separators=(",", ":"))
    (folder / "vocab.json").write_text(compact, encoding="utf-8")
    (folder / "merges.txt").write_text("\n".join([VERSION_LINE, *merges, ""]), encoding="utf-8")
    (folder / "LICENSE").write_text(LICENSE, encoding="ascii")


def write_tokenizers(folder: Path) -> None:
    """Writes `clip-tokenizer/` and `small-tokenizer/`, the small one also as the `tokenizer.json` of transformers."""
    write_vocabulary(folder / "clip-tokenizer", MERGES)
    small = folder / "small-tokenizer"
    write_vocabulary(small, SMALL_MERGES)
    CLIPTokenizer.from_pretrained(small, model_max_length=77).save_pretrained(small)


def copy_tokenizer(small: Path, folder: Path, files: tuple[str, ...]) -> None:
    """Puts the named tokenizer files, and the licence, into a checkpoint's folder."""
    for name in (*files, "LICENSE"):
        shutil.copyfile(small / name, folder / name)
