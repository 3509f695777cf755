"""Language codes, said one way: BCP-47 tags with names, scripts and resource tiers.

Sets spell one language in many ways (``eng``, ``eng_Latn``, ``swh``, ``jw``, ``zh-CN``). Every code is normalised once,
when a grid is built; the original spelling is kept beside it.
"""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Iterable, Sequence
from functools import cache
from pathlib import Path
from typing import NamedTuple

from workbench.errors import PromptError, did_you_mean, shown, shown_list
from workbench.prompts.language_table import TABLE

TIERS = ("high", "mid", "low")

#: Tier by CommonCrawl share (CC-MAIN-2026-12): high > 1 %, mid 0.1-1 %, low < 0.1 %; as in Aziz et al. 2026, arXiv:2606.01196.
_TIER_OF = {
    **dict.fromkeys("en de fr es it nl pl ru zh ja".split(), "high"),
    **dict.fromkeys("ar ko th el he hi fa".split(), "mid"),
    **dict.fromkeys("sw am my km si yo".split(), "low"),
}

#: Retired codes, and individual ISO 639-3 codes whose macrolanguage is what sets mean by them.
_ALIASES = dict(
    pair.split(":")
    for pair in (
        "jw:jv iw:he in:id ji:yi mo:ro arb:ar swh:sw cmn:zh zsm:ms pes:fa npi:ne ory:or khk:mn uzn:uz azj:az lvs:lv als:sq "
        "ydd:yi plt:mg pbt:ps ekk:et gaz:om kmr:ku ayr:ay quy:qu gug:gn knc:kr fuv:ff tgl:tl ger:de fre:fr chi:zh dut:nl gre:el per:fa "
        "may:ms bur:my tib:bo wel:cy cze:cs slo:sk rum:ro alb:sq arm:hy baq:eu geo:ka ice:is mac:mk mao:mi"
    ).split()
)

#: Spellings that look like codes and are none, with what was probably meant.
_MISTAKES = {"sp": "es", "jp": "ja", "cn": "zh", "gr": "el", "dk": "da", "cz": "cs", "ua": "uk"}


class _Language(NamedTuple):
    tag: str
    iso3: str
    script: str
    name: str


@cache
def _languages() -> dict[str, _Language]:
    rows = (entry.strip().split(" ", 3) for line in TABLE.strip().splitlines() for entry in line.split(" | "))
    return {row[0]: _Language(*row) for row in rows}


@cache
def _by_any_spelling() -> dict[str, str]:
    spellings = {language.name.casefold(): tag for tag, language in _languages().items()}
    spellings |= {language.iso3: tag for tag, language in _languages().items()}
    spellings |= {tag: tag for tag in _languages()}
    return spellings | _ALIASES


def normalise(code: str) -> str:
    """Spell a language as its BCP-47 tag.

    Parameters
    ----------
    code : str
        ISO 639-1 or 639-3, with or without script and region (``-`` or ``_``), a retired code, an English name, or a
        private-use tag (``qaa`` to ``qtz``) for an invented language.

    Returns
    -------
    str
        The shortest tag: the script is dropped when it is the one usually written, the region of ``zh-CN`` too.

    Raises
    ------
    PromptError
        If the code names no language; the nearest known ones are suggested.

    Examples
    --------
    >>> [normalise(code) for code in ("eng", "swh", "eng_Latn", "jw", "zh-CN", "zho_Hant", "Yoruba", "qaa")]
    ['en', 'sw', 'en', 'jv', 'zh', 'zh-Hant', 'yo', 'qaa']
    """
    spelled = str(code).strip()
    known = _by_any_spelling()
    whole = known.get(spelled.casefold())
    if whole is not None:
        return whole
    primary, *subtags = re.split(r"[-_]", spelled)
    primary = primary.casefold()
    if primary in known and spelled:
        tag = known[primary]
    elif re.fullmatch(r"q[a-t][a-z]", primary) or re.fullmatch(r"[a-z]{3}", primary):
        tag = primary
    else:
        hint = f" Did you mean {_MISTAKES[primary]!r}?" if primary in _MISTAKES else did_you_mean(spelled.casefold(), known)
        raise PromptError(
            f"Unknown language {shown(spelled)}; expected a BCP-47 tag such as 'en', 'sw' or 'zh-Hant'.{hint} "
            "For an invented language use a private-use tag from 'qaa' to 'qtz'."
        )
    usual = _languages()[tag].script if tag in _languages() else None
    kept = [tag]
    for subtag in subtags:
        if re.fullmatch(r"[A-Za-z]{4}", subtag):
            if subtag.title() != usual:
                kept.append(subtag.title())
        elif re.fullmatch(r"[A-Za-z]{2}|\d{3}", subtag):
            kept.append(subtag.upper())
        elif re.fullmatch(r"[A-Za-z0-9]{5,8}|\d[A-Za-z0-9]{3}", subtag):
            kept.append(subtag.lower())
        else:
            raise PromptError(f"Unknown language {shown(spelled)}: {shown(subtag)} is no script, region or variant; expected one like 'zh-Hant'.")
    return {"zh-CN": "zh", "zh-SG": "zh", "zh-TW": "zh-Hant", "zh-HK": "zh-Hant"}.get("-".join(kept), "-".join(kept))


def name_of(tag: str) -> str:
    """Return the English name of a language, or the tag itself where none is known.

    Examples
    --------
    >>> name_of("sw"), name_of("zh-Hant"), name_of("qaa")
    ('Swahili', 'Chinese (Hant)', 'qaa')
    """
    primary, *rest = tag.split("-")
    if primary not in _languages():
        return tag
    return _languages()[primary].name + (f" ({', '.join(rest)})" if rest else "")


def script_of(tag: str) -> str | None:
    """Return the ISO 15924 script a language is usually written in, or None where it is not known.

    Examples
    --------
    >>> script_of("th"), script_of("zh-Hant"), script_of("qaa")
    ('Thai', 'Hant', None)
    """
    primary, *rest = tag.split("-")
    written = [subtag for subtag in rest if len(subtag) == 4 and subtag.isalpha()]
    if written:
        return written[0]
    return _languages()[primary].script if primary in _languages() else None


def tier_of(tag: str) -> str | None:
    """Return the resource tier (``"high"``, ``"mid"``, ``"low"``), or None where it is not known.

    Examples
    --------
    >>> tier_of("en"), tier_of("ko"), tier_of("sw"), tier_of("vi")
    ('high', 'mid', 'low', None)
    """
    return _TIER_OF.get(tag) or _TIER_OF.get(tag.split("-")[0])


def tags_of(wanted: Iterable[str] | str) -> list[str]:
    """Spell several languages, given one by one or with commas between, as their tags.

    Examples
    --------
    >>> tags_of("eng, swh")
    ['en', 'sw']
    """
    return [normalise(code) for code in (wanted.split(",") if isinstance(wanted, str) else wanted) if code.strip()]


def chosen(wanted: Iterable[str] | str, known: Sequence[str], what: str = "these prompts") -> list[str]:
    """Return the tags of the languages asked for, each of which must be there.

    Parameters
    ----------
    wanted : iterable of str, or str with commas
        Any spelling.
    known : sequence of str
        Tags of the languages there are.
    what : str
        How messages call what has them.

    Raises
    ------
    PromptError
        If a language is unknown or not there; the nearest are named.

    Examples
    --------
    >>> chosen("eng,swh", ["en", "sw", "yo"])
    ['en', 'sw']
    """
    tags = tags_of(wanted)
    for tag in tags:
        if tag not in known:
            raise PromptError(
                f"Language {tag!r} ({name_of(tag)}) is not in {what}.{did_you_mean(tag, known)} "
                f"They have {', '.join(known)}; leave it out, or add its translations."
            )
    return tags


def read_tiers(path: str | Path) -> dict[str, str]:
    """Read tiers from a file: CSV with the columns ``language,tier``, or JSON ``{"sw": "low"}`` or a list of such rows.

    Returns
    -------
    dict
        Tier per normalised language tag.

    Raises
    ------
    PromptError
        If the file is missing or malformed, or a tier is none of high, mid, low.
    """
    path = Path(path)
    if not path.is_file():
        raise PromptError(f"There is no tiers file at {path}. Expected a CSV with the columns language,tier or a JSON object language -> tier.")
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise PromptError(f"{path} is not UTF-8 ({error.reason} at byte {error.start}). Save it as UTF-8.") from error
    if path.suffix.lower() == ".json":
        try:
            content = json.loads(text)
        except json.JSONDecodeError as error:
            raise PromptError(f'{path}, line {error.lineno}: {error.msg}. Expected a JSON object such as {{"sw": "low"}}.') from error
        if isinstance(content, dict):
            rows = list(content.items())
        elif isinstance(content, list) and all(isinstance(row, dict) for row in content):
            rows = [(row.get("language"), row.get("tier")) for row in content]
        else:
            raise PromptError(f'{path} holds no tiers. Expected a JSON object such as {{"sw": "low"}}, or a list of objects with language and tier.')
    else:
        reader = csv.DictReader(text.splitlines())
        found = reader.fieldnames or []
        if not {"language", "tier"} <= set(found):
            raise PromptError(f"{path} has the columns {shown_list(found) or '(none)'}; expected language,tier. Rename or add them.")
        rows = [(row["language"], row["tier"]) for row in reader]
    tiers: dict[str, str] = {}
    for number, (language, tier) in enumerate(rows, start=1):
        cleaned = str(tier).strip().lower()
        if not language or cleaned not in TIERS:
            raise PromptError(f"{path}, entry {number}: language {shown(language)} has the tier {shown(tier)}; expected one of {', '.join(TIERS)}.")
        try:
            tiers[normalise(str(language))] = cleaned
        except PromptError as error:
            raise PromptError(f"{path}, entry {number}: {error}") from error
    return tiers
