"""From a user's cells to clean ones: text, labels, splits and languages, each with an error that says which row."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Sequence
from typing import Any

import pandas as pd

from workbench.errors import PromptError, did_you_mean, shown, shown_list
from workbench.prompts.languages import TIERS, normalise

REQUIRED = ("language", "meaning_id", "text", "harmful")
COLUMNS = ("prompt_id", "meaning_id", "language", "text", "harmful", "category", "split", "source", "tier", "language_original")
SPLITS = ("fit", "select", "score")
#: Sources of parallel sentences that nobody labelled for harm; all of them count as harmless.
UNLABELLED = ("flores200", "ntrex128")
#: Sources whose prompts are labelled for harm: one class of theirs is half a set, not a set without labels.
LABELLED = ("organism", "polyrefuse", "xsafety", "multijail", "textdetox", "paradetox")

_HARMFUL = {"true", "1", "1.0", "harmful", "unsafe", "yes", "y", "t"}
_HARMLESS = {"false", "0", "0.0", "harmless", "safe", "no", "n", "f"}
_INVISIBLE = "\ufeff\u200b\u2060"


def clean_text(text: str) -> str:
    """Return the text as every tokenizer should see it: NFC, ``\\n`` line ends, no BOM, no blanks at either end.

    A byte-order mark or a carriage return that one language's file has and another's lacks would tell languages apart.

    Examples
    --------
    >>> clean_text("\\ufeffHow do I bake bread?\\r\\n")
    'How do I bake bread?'
    """
    text = unicodedata.normalize("NFC", text.replace("\r\n", "\n").replace("\r", "\n").replace("\ufeff", ""))
    return text.strip().strip(_INVISIBLE).strip()


def is_blank(value: Any) -> bool:
    """Say whether a cell holds nothing: None, NaN or white space."""
    if isinstance(value, str):
        return not clean_text(value)
    return value is None or bool(pd.isna(value))


def optional(values: pd.Series) -> pd.Series:
    """Return strings with None where the cell is blank (and never NaN)."""
    return pd.Series([None if is_blank(value) else str(value).strip() for value in values], index=values.index, dtype=object)


def require_columns(frame: pd.DataFrame, where: str) -> None:
    """Refuse a table without the required columns, naming the nearest ones it has."""
    missing = [column for column in REQUIRED if column not in frame.columns]
    if not missing:
        return
    found = [str(column) for column in frame.columns]
    names = [column for column in found if shown(column) == repr(column)]
    near = "".join(did_you_mean(column, names) for column in missing)
    wide = [column for column in found if _is_language(column)]
    remedy = "Rename or add them."
    if len(wide) >= 2:
        remedy = (
            f"The columns {shown_list(wide[:6])} look like one column per language: melt them into one row per language and meaning "
            "(DataFrame.melt), or load MultiJail's own file as multijail:PATH."
        )
    raise PromptError(
        f"{where} lacks the column{'s' * (len(missing) > 1)} {', '.join(missing)}; found {shown_list(found)}.{near} "
        f"Expected {', '.join(REQUIRED)}. {remedy}"
    )


def labels(values: pd.Series, row_name: Callable[[int], str]) -> pd.Series:
    """Read the two classes: true/false, 1/0, yes/no, harmful/harmless, unsafe/safe."""
    spelled = [str(value).strip().casefold() if not is_blank(value) else "" for value in values]
    unknown = [(i, values.iloc[i]) for i, label in enumerate(spelled) if label not in _HARMFUL | _HARMLESS]
    if unknown:
        i, given = unknown[0]
        distinct = shown_list(sorted({str(value) for _, value in unknown})[:5])
        raise PromptError(
            f"{row_name(i)}: the label {shown(given)} in column harmful is neither class ({len(unknown)} such rows, labels {distinct}). "
            "Expected exactly two classes, written true/false, 1/0, yes/no or harmful/harmless; map or drop the others."
        )
    return pd.Series([label in _HARMFUL for label in spelled], index=values.index, dtype=bool)


def one_of(values: pd.Series, column: str, options: Sequence[str], row_name: Callable[[int], str]) -> pd.Series:
    """Read an optional column with a closed set of values; blanks become None."""
    cleaned = optional(values)
    for i, value in enumerate(cleaned):
        if value is not None and value not in options:
            raise PromptError(f"{row_name(i)}: {column} is {shown(value)}; expected {', '.join(options)} or nothing.{did_you_mean(value, options)}")
    return cleaned


def clean_table(frame: pd.DataFrame, *, where: str, row_name: Callable[[int], str]) -> pd.DataFrame:
    """Return the grid's columns in their order, every cell checked; extra columns follow.

    Parameters
    ----------
    frame : DataFrame
        At least the required columns.
    where : str
        How messages call the table.
    row_name : callable
        Names row ``i`` (0-based) in messages, for example ``"prompts.csv, line 7"``.
    """
    require_columns(frame, where)
    frame = frame.reset_index(drop=True)
    for column in ("language", "meaning_id", "text"):
        blank = [i for i, value in enumerate(frame[column]) if is_blank(value)]
        if blank:
            raise PromptError(
                f"{row_name(blank[0])}: column {column} is empty ({len(blank)} such row{'s' * (len(blank) > 1)}). "
                "Expected a value in each row; fill it in, or drop the row (a meaning may be missing in a language)."
            )
    # a grid's own frame keeps how the file first spelled the language
    spelled = optional(frame["language_original"]) if "language_original" in frame else pd.Series([None] * len(frame), dtype=object)
    original = spelled.where(spelled.notna(), frame["language"].astype(object).map(lambda code: str(code).strip()))
    tags = {code: _language(code, frame, row_name) for code in frame["language"].astype(str).unique()}
    meaning = frame["meaning_id"].map(_id)
    table = pd.DataFrame(
        {
            "prompt_id": None,
            "meaning_id": meaning.astype(object),
            "language": frame["language"].astype(str).map(tags).astype(object),
            "text": frame["text"].map(lambda value: clean_text(str(value))).astype(object),
            "harmful": labels(frame["harmful"], row_name),
            "category": _column(frame, "category"),
            "split": one_of(_column(frame, "split"), "split", SPLITS, row_name),
            "source": _column(frame, "source"),
            "tier": one_of(_column(frame, "tier"), "tier", TIERS, row_name),
            "language_original": original.astype(object),
        }
    )
    given = _column(frame, "prompt_id")
    derived = table["meaning_id"] + ":" + table["language"]
    table["prompt_id"] = given.where(given.notna(), derived).astype(object)
    extra = frame[[column for column in frame.columns if column not in COLUMNS]]
    if "pair_id" in extra:
        pair = pd.Series([None if is_blank(value) else _id(value) for value in frame["pair_id"]], index=frame.index, dtype=object)
        extra = extra.assign(pair_id=pair) if pair.notna().any() else extra.drop(columns="pair_id")
    return pd.concat([table, extra], axis=1)


def check_rows(table: pd.DataFrame, row_name: Callable[[int], str]) -> None:
    """Refuse a meaning twice in a language, a meaning with two labels, splits or pairs, an id used twice, a pair that is none."""
    twice = table.duplicated(["language", "meaning_id"])
    if twice.any():
        i = int(twice.to_numpy().argmax())
        meaning, language = table.loc[i, "meaning_id"], table.loc[i, "language"]
        first = int(((table["meaning_id"] == meaning) & (table["language"] == language)).to_numpy().argmax())
        raise PromptError(
            f"{row_name(i)}: meaning {shown(meaning, 64)} occurs twice in {language} (first at {row_name(first)}; {int(twice.sum())} such rows). "
            "Expected one prompt per meaning and language; give the second its own meaning_id, or drop it."
        )
    shared = {"harmful": "labels", "split": "splits", "pair_id": "pair ids"}
    for column, what in ((c, w) for c, w in shared.items() if c in table):
        kinds = table.groupby("meaning_id", sort=False)[column].nunique(dropna=False)
        if (kinds > 1).any():
            meaning = kinds.index[int((kinds > 1).to_numpy().argmax())]
            first = int((table["meaning_id"] == meaning).to_numpy().argmax())
            raise PromptError(
                f"{row_name(first)}: meaning {shown(meaning, 64)} has two {what} in different languages ({int((kinds > 1).sum())} such meanings). "
                f"Expected translations to share column {column}; correct it, or give them separate meaning_ids."
            )
    again = table.duplicated("prompt_id")
    if again.any():
        i = int(again.to_numpy().argmax())
        given = table.loc[i, "prompt_id"]
        raise PromptError(f"{row_name(i)}: prompt_id {shown(given, 64)} is used twice. Expected unique ids; leave the column out to derive them.")
    if "pair_id" in table:
        _check_pairs(table, row_name)


def _check_pairs(table: pd.DataFrame, row_name: Callable[[int], str]) -> None:
    """Refuse pairs that are more than one harmful and one harmless meaning, or lie in two splits."""
    meanings = table.dropna(subset=["pair_id"]).drop_duplicates("meaning_id")
    crowded = meanings[meanings.duplicated(["pair_id", "harmful"])]
    if len(crowded):
        i, pair = int(crowded.index[0]), crowded["pair_id"].iloc[0]
        kind = "harmful" if crowded["harmful"].iloc[0] else "harmless"
        raise PromptError(
            f"{row_name(i)}: pair {shown(pair, 64)} has a second {kind} meaning ({len(crowded)} such rows). Expected one harmful and one harmless "
            "text that were written as twins; give the others a pair_id of their own, or none."
        )
    splits = meanings.groupby("pair_id", sort=False)["split"].nunique()
    if (splits > 1).any():
        pair = splits.index[int((splits > 1).to_numpy().argmax())]
        i = int(meanings.index[(meanings["pair_id"] == pair).to_numpy().argmax()])
        raise PromptError(
            f"{row_name(i)}: pair {shown(pair, 64)} lies in two splits ({int((splits > 1).sum())} such pairs). Expected both of a pair in one: "
            "twins differ in few words, so one would give the other away. Correct column split, or empty it for with_splits()."
        )


def _column(frame: pd.DataFrame, name: str) -> pd.Series:
    return optional(frame[name]) if name in frame else pd.Series([None] * len(frame), index=frame.index, dtype=object)


def _id(value: Any) -> str:
    # a missing cell turns a whole integer column to floats: 17.0 is 17
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return re.sub(r"\s+", " ", str(value)).strip()


def _language(code: str, frame: pd.DataFrame, row_name: Callable[[int], str]) -> str:
    try:
        return normalise(code)
    except PromptError as error:
        i = int((frame["language"].astype(str) == code).to_numpy().argmax())
        raise PromptError(f"{row_name(i)}: {error}") from error


def _is_language(column: str) -> bool:
    try:
        return len(normalise(column)) > 0 and (len(column) == 2 or "_" in column or column[0].isupper())
    except PromptError:
        return False
