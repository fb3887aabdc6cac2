"""Strings that find differences between tokenizers: hand-picked ones, and a seeded fuzzed set."""

import random
import unicodedata

FUZZ_SEED = 4
FUZZ_COUNT = 400
MOST_CHARACTERS = 700
"""Longest fuzzed string: far past 77 tokens, and short enough to keep the fixture small."""

HAND_PICKED = [
    # empty, plain, white space, contractions, quotes, punctuation, digits
    "",
    " ",
    "a photo of a cat",
    "A Photo Of A CAT.",
    "  leading and   multiple\tspaces\n\nnewline  ",
    "don't can't we'll I'm you're they've he'd it's",
    "DON'T STOP",
    "rock'n'roll 'quoted' \"double\"",
    "hello, world!!! ...",
    "a-b_c/d\\e|f",
    "100 cats 3.14 1,000,000 2nd",
    "1234567890",
    "x²+y³=½ ①②③ Ⅻ",
    # accents, composed and not; special casing; scripts
    "café naïve façade",
    "cafe\u0301 (combining)",
    "ÀÉÎÕÜ ß ẞ İ ı ſ",
    "Привет мир",
    "你好，世界",
    "日本語のテキスト",
    "한국어 텍스트",
    "مرحبا بالعالم",
    "שלום עולם",
    "हिन्दी पाठ",
    "ไทย",
    # emoji with joiners, flags, modifiers
    "😀",
    "👨\u200d👩\u200d👧\u200d👦 family",
    "🇫🇷 flag ❤\ufe0f 👍🏽",
    # markup and entities: OpenCLIP's own tokenizer unescapes these, Hugging Face's does not
    "&amp; &lt;tag&gt; &quot;q&quot; &#39;x&#39; &eacute;",
    "&amp;amp; &amp;lt;",
    "&nosuch; & alone &copy",
    "<html><b>bold</b></html>",
    # special tokens, and what only looks like them
    "<|startoftext|>",
    "<|endoftext|>",
    "a <|endoftext|> b <|startoftext|> c",
    "<start_of_text> x <end_of_text>",
    "<END_OF_TEXT> <End_Of_Text>",
    "http://example.com/a?b=c&d=e#f",
    "user@example.com #hashtag @mention",
    # long words and long texts: 77 is passed by words, by letters, and exactly reached
    "supercalifragilisticexpialidocious antidisestablishmentarianism",
    "a" * 64,
    "word " * 100,
    "x" * 400,
    "a b c d e f g " * 11,
    # invisible characters, typographic punctuation, double encoding, compatibility forms
    "\u00a0nbsp\u2003emspace\u200bzwsp\ufeffbom",
    "“smart quotes” ‘single’ — em – en … ellipsis",
    "â€œmojibakeâ€\x9d schÃ¶n",
    "\ufb01ligature ﬀ ＦＵＬＬ width",
    "null\x00byte \x07bell \x7fdel",
    "e\u0301\u0300\u0327",
    "math: ∑∫√≠≤≥±× → ⇒ ∀",
    "🏴\U000e0067\U000e0062\U000e0065\U000e006e\U000e0067\U000e007f ☺ ☺\ufe0f ™ ©®",
    "snake_case __init__ camelCase",
    "$5 €10 £3 ¥7",
    "…",
    "ΑΣ ΣΑΣ ὈΔΥΣΣΕΎΣ",
    "ǅ ǆ Ǆ ŉ",
    "\u212a kelvin \u2126 ohm",
    "0\u0660\u0967 digits",
    "\U0001d54f\U0001d55a math",
]

CATEGORIES = (
    *("Lu", "Ll", "Lt", "Lm", "Lo", "Mn", "Mc", "Me", "Nd", "Nl", "No", "Pc", "Pd", "Ps", "Pe", "Pi", "Pf", "Po"),
    *("Sm", "Sc", "Sk", "So", "Zs", "Zl", "Zp", "Cc", "Cf", "Co", "Cn"),
)
"""Every general category but surrogates, which UTF-8 cannot hold."""

WORDS = "a an the red blue Photo OF cat DOG car tree wall street people Cafe naïve façade ÉCOLE straße".split()
CONTRACTIONS = ["'s", "'t", "'re", "'ve", "'m", "'ll", "'d", "'S", "'LL", "'x", "''s", "’s", "n't", "'"]
PUNCTUATION = list("!\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~") + ["!!", "...", "--", "!?!", "://", "<|", "|>", "</w>"]
SPACES = [" ", "  ", "\t", "\n", "\r\n", *"\x0b\x0c\x1c\x85\u00a0\u1680\u2009\u2028\u3000"]
INVISIBLE = list("\u200b\u200c\u200d\u2060\ufeff\u00ad\u202e\x00\x01\x1f\x7f\x80")
EMOJI = ["😀", "👩\u200d🚀", "🇩🇪", "❤\ufe0f", "👍🏿", "1\ufe0f\u20e3", "🏳\ufe0f\u200d🌈", "🫠"]
SPECIALS = ["<|startoftext|>", "<|endoftext|>", "<|STARTOFTEXT|>", "<|endoftext|", "|endoftext|>", "<|endoftext|>" * 2]
COMBINING = ["\u0301", "\u0308", "\u0327", "\u0345", "\u05b4", "\u094d", "\u1100\u1161\u11a8", "\u0049\u0307", "\u212b"]


def fuzzed_strings() -> list[str]:
    """`FUZZ_COUNT` strings, the same in every run: mixtures of all of the above and of every Unicode category."""
    generator = random.Random(FUZZ_SEED)
    by_category: dict[str, list[int]] = {category: [] for category in CATEGORIES}
    for code_point in range(0x110000):
        category = unicodedata.category(chr(code_point))
        if category in by_category:
            by_category[category].append(code_point)

    def category_run() -> str:
        code_points = by_category[generator.choice(CATEGORIES)]
        return "".join(chr(generator.choice(code_points)) for _ in range(generator.randint(1, 5)))

    def latin_run() -> str:
        return "".join(chr(generator.randint(0x20, 0x24F)) for _ in range(generator.randint(1, 8)))

    def long_word() -> str:
        letters = generator.choice(["abcdefghijklmnopqrstuvwxyz", "aA", "éèêëЖжßΣς", "0123456789", "ÅÅåa\u030a"])
        return "".join(generator.choice(letters) for _ in range(generator.randint(20, 200)))

    def cased_word() -> str:
        return "".join(generator.choice([c.lower(), c.upper()]) for c in generator.choice(WORDS))

    lists = [WORDS, CONTRACTIONS, PUNCTUATION, INVISIBLE, EMOJI, SPECIALS, COMBINING]
    pieces = [lambda kind=kind: generator.choice(kind) for kind in lists]
    pieces += [category_run, category_run, latin_run, cased_word, cased_word]
    pieces.append(lambda: str(generator.randint(0, 10**6)))

    strings = []
    for _ in range(FUZZ_COUNT):
        parts = []
        for _ in range(generator.choice([1, 2, 4, 8, 16])):
            parts.append(long_word() if generator.random() < 0.02 else generator.choice(pieces)())
            if generator.random() < 0.6:
                parts.append(" " if generator.random() < 0.7 else generator.choice(SPACES))
        strings.append("".join(parts)[:MOST_CHARACTERS])
    return strings
