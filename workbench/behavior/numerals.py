"""Numbers in replies of any language: digits of other scripts, thousands and decimals as languages write them."""

from __future__ import annotations

import re
import unicodedata

_DIGITS = re.compile(r"[-−–]?\d(?:[\d.,٫٬'’ \u00a0\u202f]*\d)?")
_GROUPED = {mark: re.compile(rf"-?\d{{1,3}}(?:{re.escape(mark)}\d{{3}})+") for mark in ",.' "}
_MARKS = str.maketrans("٫٬’\u00a0\u202f−–，．", ".,'  --,.")
_INDIAN = re.compile(r"-?\d{1,2}(?:,\d{2})*,\d{3}")


def _plain_digits(text: str) -> str:
    """Spell decimal digits of every script as 0 to 9, and the marks between them as ``, . '`` or a blank."""
    digits = "".join(str(unicodedata.decimal(c)) if unicodedata.decimal(c, None) is not None else c for c in text)
    return digits.translate(_MARKS)


def last_number(text: str) -> frozenset[float]:
    """Return the readings of the last number of a text; empty where there is none.

    "1.234" is one thousand two hundred thirty-four to a German and one and a bit to an English reader. Models mix both, so a number with a
    single mark before exactly three digits keeps both readings; numbers in words (and Chinese numerals) are not seen.

    Examples
    --------
    >>> last_number("She pays $3, so 2,125.") == {2125.0, 2.125}, sorted(last_number("उत्तर १८ है")), last_number("none")
    (True, [18.0], frozenset())
    >>> sorted(last_number("It is 1,234.50 in all")), sorted(last_number("Das macht 1.234,50 Euro."))
    ([1234.5], [1234.5])
    """
    plain = _plain_digits(text)
    found = list(_DIGITS.finditer(plain))
    if not found:
        return frozenset()
    last = found[-1]
    # a hyphen after a letter or digit joins words: "covid-19"
    number = last[0].lstrip("-") if last.start() and plain[last.start() - 1].isalnum() else last[0]
    return _readings(number)


def read_number(text: str) -> float | None:
    """Return the number that a cell holds, or None.

    Examples
    --------
    >>> read_number("2,125"), read_number("18.0"), read_number("eighteen")
    (2125.0, 18.0, None)
    """
    plain = _plain_digits(text).strip()
    if not _DIGITS.fullmatch(plain):
        return None
    readings = _readings(plain)
    return max(readings) if readings else None  # of two readings the thousands: keys are written in full


def _readings(number: str) -> frozenset[float]:
    if " " in number and not _GROUPED[" "].fullmatch(re.split(r"[.,]\d+$", number)[0]):
        number = number.rsplit(" ", 1)[1]  # two numbers side by side
    number = number.replace(" ", "").replace("'", "")
    marks = [c for c in number if c in ".,"]
    if not marks:
        return frozenset([float(number)])
    if len(set(marks)) == 2:  # the last one is the decimal mark
        decimal = marks[-1]
        other = "," if decimal == "." else "."
        return frozenset([float(number.replace(other, "").replace(decimal, "."))]) if number.count(decimal) == 1 else frozenset()
    (mark,) = set(marks)
    grouped = bool(_GROUPED[mark].fullmatch(number) or (mark == "," and _INDIAN.fullmatch(number)))
    whole = float(number.replace(mark, ""))
    if len(marks) > 1:
        return frozenset([whole]) if grouped else frozenset()
    fraction = float(number.replace(mark, "."))
    if grouped:
        return frozenset([whole, fraction])
    return frozenset([fraction])
