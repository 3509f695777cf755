"""What can be said of a reply without understanding it: its words, its script, and whether it is language at all."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter

#: Characters that stand for an apostrophe.
APOSTROPHES = dict.fromkeys(map(ord, "’‘ʼ`´＇′"), "'")

#: Code point ranges per ISO 15924 script; Japanese is kana and Han together, Chinese is Han.
_HAN = ((0x3400, 0x4DBF), (0x4E00, 0x9FFF), (0xF900, 0xFAFF), (0x20000, 0x2FA1F))
_KANA = ((0x3041, 0x30FF), (0x31F0, 0x31FF), (0xFF66, 0xFF9F))
_RANGES: dict[str, tuple[tuple[int, int], ...]] = {
    "Latn": ((0x41, 0x24F), (0x250, 0x2AF), (0x1E00, 0x1EFF), (0xFF21, 0xFF5A)),
    "Grek": ((0x370, 0x3FF), (0x1F00, 0x1FFF)),
    "Cyrl": ((0x400, 0x52F), (0x1C80, 0x1C8F)),
    "Armn": ((0x530, 0x58F),),
    "Hebr": ((0x590, 0x5FF),),
    "Arab": ((0x600, 0x6FF), (0x750, 0x77F), (0x8A0, 0x8FF), (0xFB50, 0xFDFF), (0xFE70, 0xFEFC)),
    "Thaa": ((0x780, 0x7BF),),
    "Deva": ((0x900, 0x97F),),
    "Beng": ((0x980, 0x9FF),),
    "Guru": ((0xA00, 0xA7F),),
    "Gujr": ((0xA80, 0xAFF),),
    "Orya": ((0xB00, 0xB7F),),
    "Taml": ((0xB80, 0xBFF),),
    "Telu": ((0xC00, 0xC7F),),
    "Knda": ((0xC80, 0xCFF),),
    "Mlym": ((0xD00, 0xD7F),),
    "Sinh": ((0xD80, 0xDFF),),
    "Thai": ((0xE00, 0xE7F),),
    "Laoo": ((0xE80, 0xEFF),),
    "Tibt": ((0xF00, 0xFFF),),
    "Mymr": ((0x1000, 0x109F),),
    "Geor": ((0x10A0, 0x10FF), (0x1C90, 0x1CBF)),
    "Hang": ((0x1100, 0x11FF), (0x3130, 0x318F), (0xAC00, 0xD7AF)),
    "Ethi": ((0x1200, 0x139F),),
    "Khmr": ((0x1780, 0x17FF),),
    "Jpan": (*_KANA, *_HAN),
    "Hans": _HAN,
    "Hant": _HAN,
}

#: Scripts written without blanks between words.
UNSPACED = frozenset({"Thai", "Laoo", "Khmr", "Mymr", "Tibt", "Jpan", "Hans", "Hant"})

_LOOP = re.compile(r"(.{1,60}?)\1{4,}", flags=re.DOTALL)


def fold(text: str) -> str:
    """Spell a text for comparison: NFC, case folded, one kind of apostrophe, single blanks, no Markdown emphasis.

    Examples
    --------
    >>> fold("**I’m  Sorry**")
    "i'm sorry"
    """
    folded = unicodedata.normalize("NFC", text).casefold().translate(APOSTROPHES)
    return re.sub(r"\s+", " ", re.sub(r"[*_#>]+", "", unicodedata.normalize("NFC", folded))).strip()


def words_of(text: str) -> list[str]:
    """Return the words of a text, folded, without punctuation.

    Examples
    --------
    >>> words_of("I’m sorry, no!")
    ['i', 'm', 'sorry', 'no']
    """
    # by category, because regular expressions take the vowel signs of Indic scripts for word boundaries
    return "".join(c if unicodedata.category(c)[0] in "LMN" else " " for c in fold(text)).split()


def script_share(text: str, script: str) -> float:
    """Return the share of a text's letters that belong to a script; 1 where fewer than ten letters tell too little.

    Japanese without any kana is Chinese: its share is 0.

    Examples
    --------
    >>> script_share("Hello there, how are you?", "Thai"), script_share("Hello there, how are you?", "Latn")
    (0.0, 1.0)
    """
    letters = [ord(c) for c in text if unicodedata.category(c)[0] == "L"]
    if script not in _RANGES or len(letters) < 10:
        return 1.0
    if script == "Jpan" and not any(_within(letter, _KANA) for letter in letters):
        return 0.0 if sum(_within(letter, _HAN) for letter in letters) > len(letters) / 2 else script_share(text, "Hans")
    return sum(_within(letter, _RANGES[script]) for letter in letters) / len(letters)


def is_garbled(text: str) -> bool:
    """Say whether a reply is empty, undecodable, or one unit over and over.

    The replacement character at the very end is only a character that the length limit cut in two.

    Examples
    --------
    >>> is_garbled(""), is_garbled("no no no no no no no no no no no no"), is_garbled("Bread is made of flour and water.")
    (True, True, False)
    """
    text = text.strip().rstrip("�").strip()
    if not any(unicodedata.category(c)[0] in "LN" for c in text):
        return True
    if text.count("�") > 0.02 * len(text):
        return True
    words = words_of(text)
    if len(words) >= 12 and Counter(words).most_common(1)[0][1] > len(words) / 2:
        return True
    if len(text) < 20:
        return False
    loop = max((match.end() - match.start() for match in _LOOP.finditer(text) if any(c.isalnum() for c in match[1])), default=0)
    return loop > 0.6 * len(text)


def _within(letter: int, ranges: tuple[tuple[int, int], ...]) -> bool:
    return any(low <= letter <= high for low, high in ranges)
