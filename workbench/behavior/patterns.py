"""Refusal patterns: how the table ``refusal_markers.tsv`` is written, and how a reply is spelled before they are looked for.

A row is a language, a kind (see :mod:`workbench.behavior.markers`) and a pattern, written in the language's usual spelling:

- alternatives, optional parts and the like as in a regular expression;
- ``…`` stands for any few words of the same sentence (of the next ones too in a *concedes* row);
- ``^`` is the beginning of the reply; elsewhere a pattern begins at the beginning of a word, and ends anywhere, so a stem covers its
  endings. Where words are not separated a pattern may begin anywhere and blanks do not count; in Korean each blank may be missing.

Both sides are spelled alike (:func:`plain`): no case, Markdown, quotes or punctuation but the end of a sentence; accents, Arabic and Hebrew vowel
points and nuktas dropped, Arabic letters that Persian and Arabic write differently made one, traditional Chinese made simplified.
"""

from __future__ import annotations

import csv
import re
import unicodedata
from functools import cache
from pathlib import Path

from workbench.behavior.text import APOSTROPHES, UNSPACED
from workbench.prompts.languages import script_of

KINDS = ("declines", "unable", "regrets", "concedes", "offers", "judges", "warns", "role", "redirects", "excuses", "answers")

_TABLE = Path(__file__).with_name("refusal_markers.tsv")
_GAP = "\ue000"
#: Accents of Latin, Greek and Cyrillic; Hebrew and Arabic points; nuktas; the tatweel, soft hyphens and invisible joiners.
_MARKS = re.compile(
    "[\u0300-\u036f\u0591-\u05c7\u0610-\u061a\u064b-\u065f\u0670\u06d6-\u06ed\u093c\u09bc\u0640\u00ad\u200b-\u200f\u202a-\u202e\u2060-\u2064\ufeff]"
)
_LETTERS = str.maketrans("ىیېکەہھةđ", "يييكههههd") | str.maketrans(
    "無們絕對幫違應該為與會這個議願實難請諒遺給寫編創協滿處執參討論訴從現勵專業醫師諮詢係聯話熱線語傷殘嚴後視適當負責錯誤許讓條還沒辦權訊問題",
    "无们绝对帮违应该为与会这个议愿实难请谅遗给写编创协满处执参讨论诉从现励专业医师咨询系联话热线语伤残严后视适当负责错误许让条还没办权讯问题",
)
_ENDS = frozenset(".!?;:\n。｡।॥။።؟۔։⁇‼")
_DROPPED = re.compile(r"[*_#>~\"“”„«»‹›]+")


def spelled(text: str) -> str:
    """Return a text with one spelling per letter; punctuation and line breaks stay.

    Examples
    --------
    >>> spelled("Désolé, ΔΕΝ ΜΠΟΡΏ!"), spelled("أنا آسفة"), spelled("對不起")
    ('desole, δεν μπορω!', 'انا اسفه', '对不起')
    """
    lower = unicodedata.normalize("NFKD", text.translate(APOSTROPHES)).casefold()
    bare = _MARKS.sub("", unicodedata.normalize("NFKD", lower))
    return unicodedata.normalize("NFC", bare).translate(_LETTERS)


def plain(text: str, tag: str) -> str:
    """Return what patterns are looked for in: words and sentence ends (``.``) between single blanks; no blanks where words are not separated.

    Examples
    --------
    >>> plain("**I’m sorry**, but – no!", "en"), plain("抱歉， 我無法…", "zh")
    (" i'm sorry but no . ", '抱歉我无法.')
    """
    kept = []
    for c in _DROPPED.sub("", spelled(text)):
        kept.append(" . " if c in _ENDS else c if c == "'" or unicodedata.category(c)[0] in "LMN" else " ")
    words = re.sub(r"(\. )+(?=\.)", "", " ".join("".join(kept).split()))
    return words.replace(" ", "") if script_of(tag) in UNSPACED else f" {words} "


def compiled(pattern: str, tag: str, kind: str) -> re.Pattern[str]:
    """Return a row of the table as a regular expression over :func:`plain` text."""
    unspaced = script_of(tag) in UNSPACED
    source = spelled(pattern.replace("…", _GAP))
    reach = (40 if unspaced else 120) if kind == "concedes" else (30 if unspaced else 120)
    gap = f".{{0,{reach}}}?" if kind == "concedes" else f"[^.]{{0,{reach}}}?"
    source = source.replace(f" {_GAP} ", f"(?: {gap})? ").replace(_GAP, gap)
    if unspaced:
        return re.compile(source.replace(" ", ""))
    if tag == "ko":
        return re.compile(source.replace(" ", " ?"))
    return re.compile(f"^ (?:{source[1:]})" if source.startswith("^") else f"(?<= )(?:{source})")


@cache
def _written() -> dict[str, tuple[tuple[str, str], ...]]:
    listed: dict[str, list[tuple[str, str]]] = {}
    with _TABLE.open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE):
            listed.setdefault(row["language"], []).append((row["kind"], row["pattern"]))
    return {tag: tuple(rows) for tag, rows in listed.items()}


def listed_languages() -> list[str]:
    """Return the languages of the table."""
    return list(_written())


def listed(tag: str) -> str | None:
    """Return the language of the table that serves a tag (its regions and scripts share the patterns), or None."""
    return next((known for known in (tag, tag.split("-")[0]) if known in _written()), None)


def written(tag: str) -> tuple[tuple[str, str], ...]:
    """Return a listed language's rows as (kind, pattern)."""
    return _written()[tag]


@cache
def patterns(tag: str) -> dict[str, tuple[re.Pattern[str], ...]]:
    """Return a listed language's patterns per kind."""
    found: dict[str, list[re.Pattern[str]]] = {}
    for kind, pattern in written(tag):
        found.setdefault(kind, []).append(compiled(pattern, tag, kind))
    return {kind: tuple(rows) for kind, rows in found.items()}
