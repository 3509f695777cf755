"""The grid's promises: checked cells, parallel limits and splits, honest gaps."""

from __future__ import annotations

import random
from typing import Any

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from workbench.errors import PromptError
from workbench.prompts import PromptGrid, load_prompts
from workbench.prompts.cells import COLUMNS, clean_text


def rows(languages: tuple[str, ...] = ("en", "sw"), n: int = 4, **more: Any) -> list[dict[str, Any]]:
    """Return a complete small table: half of the meanings are harmful by name only."""
    return [
        {"language": tag, "meaning_id": f"m{i}", "text": f"{tag} request {i}.", "harmful": i < n // 2, **more} for i in range(n) for tag in languages
    ]


def grid_of(languages: tuple[str, ...] = ("en", "sw"), n: int = 4, **more: Any) -> PromptGrid:
    return PromptGrid(pd.DataFrame(rows(languages, n, **more)))


@st.composite
def ragged(draw: st.DrawFn) -> PromptGrid:
    """Draw a grid with some cells missing, in any row order, both classes in each language."""
    languages = draw(st.lists(st.sampled_from(["en", "sw", "zh", "qaa", "yo"]), min_size=1, max_size=4, unique=True))
    n = draw(st.integers(4, 16))
    table = rows(tuple(languages), n)
    lost = draw(st.sets(st.tuples(st.sampled_from(languages), st.integers(0, n - 1)), max_size=n // 2))
    table = [row for row in table if (row["language"], int(row["meaning_id"][1:])) not in lost]
    draw(st.randoms(use_true_random=False)).shuffle(table)
    return PromptGrid(pd.DataFrame(table or rows()))


def shuffled(grid: PromptGrid, seed: int) -> PromptGrid:
    order = list(range(len(grid)))
    random.Random(seed).shuffle(order)
    return PromptGrid(grid.frame.iloc[order])


# ---------------------------------------------------------------------------------------------------- what is derived


def test_columns_come_in_their_order_and_extra_ones_follow():
    grid = PromptGrid(pd.DataFrame(rows(("eng", "swh"), answer="yes", source="mine")))
    assert list(grid.frame.columns) == [*COLUMNS, "answer"]
    first = grid.frame.iloc[0]
    assert (first["prompt_id"], first["language"], first["language_original"], first["tier"]) == ("m0:en", "en", "eng", "high")
    assert first["category"] is None
    assert first["split"] is None
    assert grid.frame["harmful"].dtype == bool
    assert grid.tiers == {"en": "high", "sw": "low"}


def test_the_original_spelling_survives_a_second_pass():
    grid = PromptGrid(pd.DataFrame(rows(("eng", "swh"))))
    assert list(PromptGrid(grid.frame).frame["language_original"]) == list(grid.frame["language_original"])


@pytest.mark.parametrize("spelling", [(True, False), (1, 0), ("1", "0"), ("true", "False"), ("harmful", "harmless"), ("Yes", "no"), (1.0, 0.0)])
def test_labels_may_be_spelled_in_the_usual_ways(spelling):
    table = pd.DataFrame(rows())
    table["harmful"] = [spelling[0] if label else spelling[1] for label in table["harmful"]]
    assert list(PromptGrid(table).frame["harmful"]) == list(grid_of().frame["harmful"])


def test_ids_that_a_missing_cell_turned_into_floats_are_whole_numbers_again():
    table = pd.DataFrame(rows(n=2))
    table["meaning_id"] = [17.0, 17.0, 18.0, 18.0]
    assert PromptGrid(table).meanings == ["17", "18"]


def test_text_has_one_spelling_whatever_the_file_did():
    assert clean_text("\ufeffcafe\u0301\r\nau lait \r\n") == "caf\u00e9\nau lait"
    composed, decomposed = grid_of(), grid_of()
    a = pd.DataFrame(rows(n=2)).assign(text=["é a", "é b", "é c", "é d"])
    b = a.assign(text=["\ufeffe\u0301 a\r\n", "e\u0301 b ", "\te\u0301 c", "e\u0301 d\r"])
    composed, decomposed = PromptGrid(a), PromptGrid(b)
    assert list(composed.frame["text"]) == list(decomposed.frame["text"])
    assert composed.hash == decomposed.hash


def test_tiers_given_win_over_the_column_which_wins_over_the_table():
    table = pd.DataFrame(rows(("en", "sw", "vi"))).assign(tier=lambda t: t["language"].map({"sw": "mid"}))
    assert PromptGrid(table).tiers == {"en": "high", "sw": "mid", "vi": None}
    assert PromptGrid(table, tiers={"swh": "low", "vi": "mid"}).tiers == {"en": "high", "sw": "low", "vi": "mid"}


# ---------------------------------------------------------------------------------------------------- what is refused


def changed(**cells: Any) -> pd.DataFrame:
    table = pd.DataFrame(rows(), dtype=object)
    for column, value in cells.items():
        table.loc[3, column] = value
    return table


@pytest.mark.parametrize(
    ("table", "message"),
    [
        (changed(language=""), "row 3: column language is empty"),
        (changed(language=None), "row 3: column language is empty"),
        (changed(text="\ufeff \r\n"), "row 3: column text is empty"),
        (changed(meaning_id=float("nan")), "row 3: column meaning_id is empty"),
        (changed(meaning_id="m0"), r"row 3: meaning 'm0' occurs twice in sw \(first at row 1"),
        (changed(harmful="maybe"), "row 3: the label 'maybe' .*exactly two classes"),
        (changed(harmful=2), "row 3: the label 2"),
        (changed(harmful=None), "row 3: the label"),
        (changed(harmful=False), "'m1' has two labels in different languages"),
        (changed(language="englsh"), "row 3: Unknown language 'englsh'.*Did you mean 'english'"),
        (changed(split="train"), "row 3: split is 'train'; expected fit, select, score"),
        (changed(split="fit"), "'m1' has two splits"),
        (changed(tier="tiny"), "row 3: tier is 'tiny'; expected high, mid, low"),
        (changed(tier="mid").assign(tier=["low", "low", "low", "mid"] * 2), "has the tiers low and mid"),
        (pd.DataFrame(rows()).assign(prompt_id="same"), "prompt_id 'same' is used twice"),
        (pd.DataFrame(rows()).drop(columns="harmful"), "lacks the column harmful; found"),
        (pd.DataFrame(rows()).rename(columns={"text": "texts"}), "lacks the column text.*Did you mean 'texts'"),
        (pd.DataFrame({"id": ["1"], "en": ["a"], "sw": ["b"]}), "one column per language: melt"),
    ],
)
def test_bad_tables_are_refused_with_the_row_and_the_remedy(table, message):
    with pytest.raises(PromptError, match=f"(?s){message}"):
        PromptGrid(table)


def test_messages_never_show_a_prompt():
    for table in (changed(harmful="maybe"), changed(meaning_id="m0"), changed(harmful=False)):
        with pytest.raises(PromptError) as caught:
            PromptGrid(table)
        assert "request" not in str(caught.value)


@pytest.mark.parametrize("prompt", ["Please bake the violet marzipan", "请问怎么烤面包", "Bitte\u00a0zwei", "Marzipan" * 4])
@pytest.mark.parametrize("column", ["harmful", "split", "tier", "language"])
def test_a_prompt_in_another_column_is_counted_and_not_shown(column, prompt):
    with pytest.raises(PromptError, match=f"row 3: .*a text of {len(prompt)} characters") as caught:
        PromptGrid(changed(**{column: prompt}))
    assert prompt not in str(caught.value)


def test_a_prompt_as_an_id_is_counted_and_not_shown():
    prompt = "Please bake the violet marzipan"
    table = pd.DataFrame(rows(("en", "sw"), 2))
    twice = table.assign(meaning_id=prompt).drop(columns="harmful").assign(harmful=True)
    split = table.assign(meaning_id=prompt, harmful=table["language"] == "en").iloc[:2]
    for bad in (twice, split, table.assign(prompt_id=prompt)):
        with pytest.raises(PromptError, match=r"row \d.*a text of 31 characters") as caught:
            PromptGrid(bad)
        assert "marzipan" not in str(caught.value)


def test_the_html_display_shows_counts_and_no_texts():
    shown = grid_of()._repr_html_()
    assert "Swahili" in shown
    assert "request" not in shown


# ---------------------------------------------------------------------------------------------------- parts


def test_selecting_what_is_not_there_names_what_is():
    grid = grid_of(("en", "sw"))
    with pytest.raises(PromptError, match=r"'yo' \(Yoruba\) is not in these prompts.*en, sw"):
        grid.select(languages=["yo"])
    with pytest.raises(PromptError, match="with_splits"):
        grid.select(split="score")
    with pytest.raises(PromptError, match="Did you mean 'score'"):
        grid.select(split="scores")
    assert grid.select(languages=["swh"], harmful=True).frame["language"].unique().tolist() == ["sw"]


@settings(max_examples=60, deadline=None)
@given(ragged(), st.integers(1, 5), st.integers(0, 3))
def test_limits_are_nested_parallel_and_indifferent_to_row_order(grid, n, seed):
    small, large = grid.limit(n, seed=seed), grid.limit(n + 2, seed=seed)
    assert set(small.frame["prompt_id"]) <= set(large.frame["prompt_id"])
    assert set(shuffled(grid, seed).limit(n, seed=seed).frame["prompt_id"]) == set(small.frame["prompt_id"])
    have = grid.frame.groupby(["language", "harmful"]).size()
    kept = small.frame.groupby(["language", "harmful"]).size()
    assert (kept == have.clip(upper=n)).all()


def test_a_limit_keeps_the_same_meanings_in_every_language_of_a_complete_grid():
    limited = grid_of(("en", "sw", "zh"), 40).limit(5)
    assert limited.missing_cells().empty
    assert limited.frame.drop_duplicates("meaning_id")["harmful"].sum() == 5
    assert len(limited.meanings) == 10
    assert limited.meanings != grid_of(("en", "sw", "zh"), 40).limit(5, seed=1).meanings
    assert limited.provenance["limit"] == 5


def test_a_limit_keeps_the_proportions_of_splits_that_are_there():
    table = pd.DataFrame(rows(n=80))
    number = table["meaning_id"].str[1:].astype(int) % 40
    table["split"] = ["fit" if i < 10 else "select" if i < 20 else "score" for i in number]
    kept = PromptGrid(table).limit(8).frame.drop_duplicates("meaning_id")
    sizes = {"fit": 2, "select": 2, "score": 4}
    assert kept.groupby(["harmful", "split"]).size().to_dict() == {(label, split): n for label in (False, True) for split, n in sizes.items()}


@settings(max_examples=60, deadline=None)
@given(ragged(), st.integers(0, 3))
def test_splits_are_the_same_in_every_language_stratified_and_indifferent_to_row_order(grid, seed):
    split = grid.with_splits(seed=seed)
    by_meaning = split.frame.groupby("meaning_id")["split"].nunique(dropna=False)
    assert (by_meaning == 1).all()
    again = shuffled(grid, 1).with_splits(seed=seed).frame.set_index("prompt_id")["split"]
    assert again.sort_index().equals(split.frame.set_index("prompt_id")["split"].sort_index())
    meanings = split.frame.drop_duplicates("meaning_id")
    for _, part in meanings.groupby("harmful"):
        counts = part["split"].value_counts()
        for name, fraction in (("fit", 0.5), ("select", 0.25), ("score", 0.25)):
            assert abs(counts.get(name, 0) - fraction * len(part)) <= 1


def test_splits_that_are_there_stay_and_the_seed_is_recorded():
    table = pd.DataFrame(rows(n=8))
    table["split"] = table["meaning_id"].map({"m0": "score", "m7": "score"})
    split = PromptGrid(table).with_splits(seed=3)
    assert set(split.select(meanings=["m0", "m7"]).frame["split"]) == {"score"}
    assert split.frame["split"].notna().all()
    assert split.provenance["split_seed"] == 3
    assert split.with_splits(seed=9) is split
    assert grid_of(n=40).with_splits(seed=1).frame["split"].tolist() != grid_of(n=40).with_splits(seed=2).frame["split"].tolist()


def test_every_language_gets_every_split_even_where_its_prompts_are_not_parallel():
    table = pd.DataFrame(rows(n=40))
    table.loc[table["language"] == "sw", "meaning_id"] = "s" + table["meaning_id"]
    split = PromptGrid(table).with_splits().frame
    assert split.groupby(["language", "harmful", "split"]).size().to_dict() == {
        (tag, harmful, name): size for tag in ("en", "sw") for harmful in (False, True) for name, size in (("fit", 10), ("select", 5), ("score", 5))
    }


@settings(max_examples=60, deadline=None)
@given(ragged())
def test_a_complete_grid_has_no_gaps_and_the_hash_ignores_row_order_only(grid):
    assert shuffled(grid, 5).hash == grid.hash
    table = grid.frame
    table.loc[0, "text"] += "!"
    assert PromptGrid(table).hash != grid.hash
    try:
        whole = grid.complete()
    except PromptError:
        return
    assert whole.missing_cells().empty
    assert set(whole.frame["prompt_id"]) <= set(grid.frame["prompt_id"])
    assert len(whole) == len(whole.languages) * len(whole.meanings)


def test_completing_drops_meanings_with_gaps_and_only_a_language_that_costs_more_than_it_brings(caplog):
    table = pd.DataFrame(rows(("en", "sw", "zh"), 40))
    gap = table[~((table["language"] == "sw") & (table["meaning_id"] == "m3"))]
    whole = PromptGrid(gap).complete()
    assert whole.languages == ["en", "sw", "zh"]
    assert len(whole.meanings) == 39
    assert PromptGrid(gap).missing_cells().values.tolist() == [["m3", "sw"]]
    apart = table.copy()
    apart.loc[apart["language"] == "zh", "meaning_id"] = "z" + apart["meaning_id"]
    whole = PromptGrid(apart).complete()
    assert whole.languages == ["en", "sw"]
    assert whole.provenance["complete"]["languages_dropped"] == ["zh"]
    assert "left out zh" in caplog.text


def test_languages_that_lack_a_class_stay_visible_and_can_be_dropped_with_the_reason():
    table = pd.DataFrame(rows(("en", "sw", "zh")))
    grid = PromptGrid(table[~((table["language"] == "sw") & ~table["harmful"]) & ~((table["language"] == "zh") & table["harmful"])])
    assert grid.languages_without_both_classes() == {"sw": "2 harmful prompts and no harmless ones", "zh": "2 harmless prompts and no harmful ones"}
    with pytest.raises(PromptError, match=r"sw \(Swahili\): 2 harmful prompts and no harmless ones; zh.*--languages en"):
        grid.require_both_classes()
    kept, dropped = grid.drop_unusable()
    assert kept.languages == ["en"]
    assert dropped.to_dict("list") == {
        "what": ["language"] * 2,
        "language": ["sw", "zh"],
        "n": [2, 2],
        "reason": ["2 harmful prompts and no harmless ones", "2 harmless prompts and no harmful ones"],
    }
    kept.require_both_classes()
    with pytest.raises(PromptError, match="--harmless SET"):
        grid.select(languages=["sw"]).drop_unusable()


def test_the_reference_is_explicit_or_high_and_asked_for_otherwise():
    assert grid_of(("en", "sw", "de")).reference() == ["en", "de"]
    assert grid_of(("en", "sw", "de")).reference(["sw"]) == ["sw"]
    with pytest.raises(PromptError, match="--reference"):
        grid_of(("sw", "vi")).reference()
    with pytest.raises(PromptError, match="not in these prompts"):
        grid_of(("sw", "vi")).reference(["en"])


def test_final_punctuation_of_many_scripts_can_be_stripped_and_nothing_else():
    table = pd.DataFrame(rows(("en", "zh"), 4)).assign(text=["Bread?", "面包。", "1. Mix. Bake!", "烤吧！", "रोटी।", "خبز؟", "...", "plain"])
    stripped = PromptGrid(table).strip_final_punctuation()
    assert list(stripped.frame["text"]) == ["Bread", "面包", "1. Mix. Bake", "烤吧", "रोटी", "خبز", "...", "plain"]
    assert stripped.hash != PromptGrid(table).hash


@pytest.mark.parametrize("name", ["grid.csv", "grid.jsonl", "grid.parquet"])
def test_a_saved_grid_is_the_same_when_read_back(tmp_path, name):
    grid = PromptGrid(pd.DataFrame(rows(answer='a, "b"\nc'))).with_splits()
    back = load_prompts(grid.save(tmp_path / name))
    assert back.hash == grid.hash
    pd.testing.assert_frame_equal(back.frame.drop(columns="source"), grid.frame.drop(columns="source"), check_dtype=False)


def test_a_grid_is_never_edited_in_place():
    grid = grid_of()
    before = grid.hash
    mine = grid.frame
    mine.loc[0, "text"] = "other"
    grid.with_splits()
    grid.strip_final_punctuation()
    assert grid.hash == before
    assert grid.frame["split"].isna().all()
