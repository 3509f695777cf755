"""Pairs are drawn, split and hashed as one; a grid without pairs is what it always was."""

from __future__ import annotations

import random
from typing import Any

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from workbench.errors import PromptError
from workbench.prompts import PromptGrid, load_prompts


def rows(n: int = 8, languages: tuple[str, ...] = ("en", "sw")) -> pd.DataFrame:
    """Return n pairs in every language."""
    return pd.DataFrame(
        [
            {"language": tag, "meaning_id": f"{i}:{kind}", "text": f"{tag} {kind} {i}", "harmful": kind == "loud", "pair_id": f"p{i}"}
            for i in range(n)
            for tag in languages
            for kind in ("loud", "quiet")
        ]
    )


@st.composite
def mixed(draw: st.DrawFn) -> PromptGrid:
    """Draw a grid of pairs and single meanings with cells missing, in any row order."""
    languages = draw(st.lists(st.sampled_from(["en", "sw", "zh"]), min_size=1, max_size=3, unique=True))
    table = rows(draw(st.integers(2, 14)), tuple(languages))
    single = draw(st.sets(st.sampled_from(sorted(table["pair_id"].unique()))))
    table.loc[table["pair_id"].isin(single), "pair_id"] = None
    lost = draw(st.sets(st.integers(0, len(table) - 1), max_size=len(table) // 3))
    order = [i for i in range(len(table)) if i not in lost]
    draw(st.randoms(use_true_random=False)).shuffle(order)
    return PromptGrid(table.iloc[order])


def shuffled(grid: PromptGrid, seed: int) -> PromptGrid:
    order = list(range(len(grid)))
    random.Random(seed).shuffle(order)
    return PromptGrid(grid.frame.iloc[order])


# ---------------------------------------------------------------------------------------------------- what a pair is


def test_pairs_are_carried_and_read_back(tmp_path):
    grid = PromptGrid(rows().assign(answer="x")).with_splits()
    assert grid.has_pairs
    assert grid.frame["pair_id"].tolist() == rows()["pair_id"].tolist()
    for name in ("a.csv", "a.jsonl", "a.parquet"):
        back = load_prompts(grid.save(tmp_path / name))
        assert back.hash == grid.hash, name
        assert back.frame["pair_id"].tolist() == grid.frame["pair_id"].tolist()


def test_a_column_of_blanks_is_no_pairs_and_whole_numbers_are_ids():
    table = rows()
    plain = PromptGrid(table.drop(columns="pair_id"))
    blank = PromptGrid(table.assign(pair_id=[None, "", " ", float("nan")] * 8))
    assert not blank.has_pairs
    assert "pair_id" not in blank.frame
    assert blank.hash == plain.hash
    numbers = PromptGrid(table.assign(pair_id=table["pair_id"].str[1:].astype(float).where(table["pair_id"] != "p0")))
    assert numbers.frame["pair_id"].tolist()[:5] == [None] * 4 + ["1"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({(0, "pair_id"): "p9"}, r"row 0: meaning '0:loud' has two pair ids in different languages"),
        ({(0, "pair_id"): None}, r"row 0: meaning '0:loud' has two pair ids"),
        ({(4, "pair_id"): "p0", (6, "pair_id"): "p0"}, r"row 4: pair 'p0' has a second harmful meaning .*one harmful and one harmless"),
        ({(5, "pair_id"): "p0", (7, "pair_id"): "p0"}, r"row 5: pair 'p0' has a second harmless meaning"),
        (
            {(0, "split"): "fit", (2, "split"): "fit", (1, "split"): "score", (3, "split"): "score"},
            r"row 0: pair 'p0' lies in two splits .1 such pairs.*empty it for with_splits",
        ),
    ],
)
def test_what_is_no_pair_is_refused_with_the_row(change, message):
    table = rows().assign(split=None).astype(object)
    for (row, column), value in change.items():
        table.loc[row, column] = value
    with pytest.raises(PromptError, match=message):
        PromptGrid(table)


def test_a_prompt_as_a_pair_id_is_counted_and_not_shown():
    table = rows(1).assign(pair_id="Please bake the violet marzipan", harmful=True)
    with pytest.raises(PromptError, match="pair a text of 31 characters") as caught:
        PromptGrid(table)
    assert "marzipan" not in str(caught.value)


# ---------------------------------------------------------------------------------------------------- the hash


def test_the_hash_of_a_grid_without_pairs_is_the_one_stores_were_made_with():
    """Recorded before grids had pairs; a store made then must be recognised."""
    table = pd.DataFrame([{"language": tag, "meaning_id": m, "text": f"{tag} {m}", "harmful": m == "b"} for tag in ("en", "swh") for m in "ab"])
    assert PromptGrid(table).hash == "faba3c98595056d494ac3c4de375f26e6bf52fad937a19e2cecc068504939d29"
    assert PromptGrid(table).with_splits().hash == "9bac9eeaaa6401186e25fa35996687749ef13361003a2c4abe78fcf3fed49ecb"


def test_the_hash_covers_pairs_and_ignores_row_order():
    grid = PromptGrid(rows())
    assert shuffled(grid, 3).hash == grid.hash
    assert PromptGrid(rows().drop(columns="pair_id")).hash != grid.hash
    assert PromptGrid(rows().replace({"pair_id": {"p0": "p99"}})).hash != grid.hash


# ---------------------------------------------------------------------------------------------------- drawing


@settings(max_examples=25, deadline=None)
@given(mixed(), st.integers(1, 5), st.integers(0, 3))
def test_limits_take_pairs_whole_and_stay_nested_whatever_the_row_order(grid, n, seed):
    small, large = grid.limit(n, seed=seed).frame, grid.limit(n + 1, seed=seed).frame
    assert set(small["prompt_id"]) <= set(large["prompt_id"])
    assert set(shuffled(grid, seed).limit(n, seed=seed).frame["prompt_id"]) == set(small["prompt_id"])
    assert (small.groupby(["language", "harmful"]).size() <= n).all()
    if grid.has_pairs:
        whole = grid.frame.dropna(subset=["pair_id"]).groupby(["language", "pair_id"]).size()
        kept = small.dropna(subset=["pair_id"]).groupby(["language", "pair_id"]).size() if "pair_id" in small else pd.Series(dtype=int)
        assert (kept == whole.reindex(kept.index)).all()


def test_a_limit_of_pairs_alone_is_exact_and_the_same_in_every_language():
    limited = PromptGrid(rows(40, ("en", "sw", "zh"))).limit(7, seed=2)
    assert limited.missing_cells().empty
    assert limited.frame.groupby(["language", "harmful"]).size().unique().tolist() == [7]
    assert limited.frame["pair_id"].nunique() == 7
    assert set(limited.frame["pair_id"]) != set(PromptGrid(rows(40, ("en", "sw", "zh"))).limit(7, seed=3).frame["pair_id"])


def test_single_meanings_fill_up_what_pairs_cannot():
    table = rows(6, ("en",))
    table.loc[table["pair_id"].isin(["p0", "p1", "p2"]), "pair_id"] = None
    full = PromptGrid(table)
    for n in range(1, 7):
        assert full.limit(n).frame.groupby("harmful").size().tolist() == [n, n]


@settings(max_examples=25, deadline=None)
@given(mixed(), st.integers(0, 3))
def test_twins_are_in_one_split_and_the_splits_keep_their_shares(grid, seed):
    split = grid.with_splits(seed=seed).frame
    assert split["split"].notna().all()
    if grid.has_pairs:
        assert (split.dropna(subset=["pair_id"]).groupby("pair_id")["split"].nunique() == 1).all()
    again = shuffled(grid, 1).with_splits(seed=seed).frame.set_index("prompt_id")["split"]
    assert again.sort_index().equals(split.set_index("prompt_id")["split"].sort_index())
    for _, part in split.drop_duplicates("meaning_id").groupby("harmful"):
        counts = part["split"].value_counts()
        for name, fraction in (("fit", 0.5), ("select", 0.25), ("score", 0.25)):
            # within one of the share among single meanings, whole pairs and pairs that lost a twin
            assert abs(counts.get(name, 0) - fraction * len(part)) <= 3


def test_without_pair_ids_twins_are_torn_apart():
    """The control: what the column prevents does happen without it."""
    torn = PromptGrid(rows(40).drop(columns="pair_id")).with_splits().frame
    pair = torn["meaning_id"].str.split(":").str[0]
    assert (torn.groupby(pair)["split"].nunique() > 1).mean() > 0.3


def test_a_meaning_follows_the_split_that_its_twin_has():
    table = rows(6).assign(split=lambda t: t["meaning_id"].map({"0:loud": "score", "1:quiet": "select"}))
    split: dict[str, Any] = PromptGrid(table).with_splits(seed=5).frame.drop_duplicates("meaning_id").set_index("meaning_id")["split"].to_dict()
    assert (split["0:loud"], split["0:quiet"]) == ("score", "score")
    assert (split["1:loud"], split["1:quiet"]) == ("select", "select")
