"""Twins across languages: what stands beside what, and what has no twin."""

from __future__ import annotations

import pandas as pd
import pytest

from workbench.alignment.preference import PreferenceSet, parallel_queries, reference_pairs
from workbench.errors import PromptError
from workbench.prompts import PromptGrid


def grid(cells: dict[str, list[str]]) -> PromptGrid:
    rows = [
        {"language": tag, "meaning_id": m, "text": f"{tag} loaf {m}", "harmful": m.endswith("h"), "split": "fit"}
        for tag, meanings in cells.items()
        for m in meanings
    ]
    return PromptGrid(pd.DataFrame(rows))


def test_every_query_stands_beside_its_own_translation() -> None:
    table = parallel_queries(grid({"en": ["1h", "2", "3"], "sw": ["3", "1h", "2"], "yo": ["2"]}), "eng")
    assert set(table["language"]) == {"sw", "yo"} and len(table) == 4
    assert all(
        row.reference_text == f"en loaf {row.meaning_id}" and row.text == f"{row.language} loaf {row.meaning_id}" for row in table.itertuples()
    )
    assert dict(zip(table["meaning_id"], table["harmful"], strict=True)) == {"1h": True, "2": False, "3": False}
    assert table.attrs["dropped"].empty


def test_queries_and_languages_without_a_twin_are_dropped_and_counted() -> None:
    table = parallel_queries(grid({"en": ["1h", "2"], "sw": ["1h", "3"], "yo": ["4", "5", "6h"]}), "en")
    assert list(table["prompt_id"]) == ["1h:sw"]
    assert table.attrs["dropped"].to_dict("records") == [
        {"what": "query", "language": "sw", "n": 1, "reason": "no twin in en"},
        {"what": "language", "language": "yo", "n": 3, "reason": "none of its meanings occurs in en"},
    ]


def test_nothing_to_learn_from_is_refused_with_the_remedy() -> None:
    with pytest.raises(PromptError, match=r"None of the 2 prompts in sw has a twin in en.*parallel prompts"):
        parallel_queries(grid({"en": ["1h"], "sw": ["2", "3"]}), "en")
    with pytest.raises(PromptError, match="only language"):
        parallel_queries(grid({"en": ["1h"]}), "en")
    with pytest.raises(PromptError, match="not in these prompts"):
        parallel_queries(grid({"en": ["1h"], "sw": ["1h"]}), "de")


def pairs(cells: dict[str, list[str]]) -> PreferenceSet:
    rows = [
        {"language": tag, "meaning_id": m, "prompt": f"{tag} loaf {m}", "chosen": f"{tag} good {m}", "rejected": f"{tag} bad {m}", "harmful": False}
        for tag, meanings in cells.items()
        for m in meanings
    ]
    return PreferenceSet(pd.DataFrame(rows))


def test_every_pair_stands_beside_the_reference_pair_of_its_meaning() -> None:
    table = reference_pairs(pairs({"en": ["1", "2", "2"], "sw": ["2", "1"], "yo": ["1", "9"]}).select(), "en")
    assert list(table["pair_id"]) == ["2:sw", "1:sw", "1:yo"]
    for column in ("prompt", "chosen", "rejected"):
        assert list(table[f"reference_{column}"]) == [text.replace("sw", "en").replace("yo", "en") for text in table[column]]
    assert table.attrs["dropped"].to_dict("records") == [{"what": "preference row", "language": "yo", "n": 1, "reason": "no twin in en"}]


def test_reference_pairs_need_a_shared_meaning() -> None:
    with pytest.raises(PromptError, match="None of the 1 pairs in other languages has a twin in en"):
        reference_pairs(pairs({"en": ["1"], "sw": ["2"]}), "en")
