"""Utility: answers read from letters and from words, from files in their public formats, with and without an edit."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from workbench.behavior.numerals import last_number, read_number
from workbench.behavior.question_sets import read_questions
from workbench.behavior.utility import (
    SPELLINGS,
    Utility,
    answer_utility,
    compare_utility,
    letter_tokens,
    multiple_choice,
    question_text,
    word_problems,
)
from workbench.errors import DataError, ModelError, PromptError
from workbench.interventions import Add
from workbench.prompts import PromptGrid
from workbench.statistics import wilson

ITEMS = [
    {"question": f"Name river {i}", "choices": ("bread", "home", "longest", "three"), "key": i % 4, "language": tag, "meaning_id": f"q{i}"}
    for tag in ("en", "fr")
    for i in range(8)
]


@pytest.fixture
def questions() -> pd.DataFrame:
    return pd.DataFrame([{**item, "item_id": f"{item['meaning_id']}:{item['language']}"} for item in ITEMS])


def test_the_letter_chosen_is_the_likeliest_of_its_spellings_after_each_prompt_alone(tiny_model, questions):
    chat = tiny_model("llama")
    found = multiple_choice(chat, questions, token_budget=256)
    for i in (0, 7, 12):
        tokens = chat.tokenise([question_text(questions["question"][i], questions["choices"][i])])[0]
        logits = chat.model(input_ids=torch.tensor([tokens.ids])).logits[0, -1].double()
        spelled = [[chat.tokenizer(s.replace("{A}", a).replace("{a}", a.lower()))["input_ids"] for s in SPELLINGS] for a in "ABCD"]
        best = np.array([max(float(logits[ids[0]]) for ids in forms if len(ids) == 1) for forms in spelled])
        row, key = found.table.iloc[i], questions["key"][i]
        assert row["choice"] == best.argmax() and row["correct"] == (best.argmax() == key)
        assert row["margin"] == pytest.approx(best[key] - np.delete(best, key).max(), abs=1e-4)
        p = np.exp(best - best.max()) / np.exp(best - best.max()).sum()
        assert row["entropy"] == pytest.approx(-(p * np.log(p)).sum(), abs=1e-4)
    accuracy = found.accuracy().set_index("language")
    part = found.table[found.table["language"] == "fr"]["correct"]
    assert accuracy.loc["fr", "value"] == part.mean() and accuracy.loc["fr", "n"] == 8 and accuracy.loc["fr", "chance"] == 0.25
    assert (accuracy.loc["fr", "low"], accuracy.loc["fr", "high"]) == wilson(part.sum(), 8)


def test_an_edit_that_pushes_one_letter_is_seen_and_compared_pair_by_pair(tiny_model, questions):
    chat = tiny_model("llama", hidden_size=64)
    before = multiple_choice(chat, questions)
    axis = chat.model.get_output_embeddings().weight[letter_tokens(chat, 4)[2][0]].double().numpy()
    with chat.edited(Add(axis, 200.0, layers=chat.n_layers, scope="last_prompt")):
        after = multiple_choice(chat, questions)
    assert set(after.table["choice"]) == {2} and after.accuracy()["value"].tolist() == [0.25, 0.25]
    assert after.provenance["edits"] and not before.provenance["edits"]
    change = compare_utility(before, after).table.set_index("language")
    for tag in ("en", "fr"):
        first, second = (u.table[u.table["language"] == tag]["correct"].to_numpy() for u in (before, after))
        row = change.loc[tag]
        assert (row["gained"], row["lost"]) == ((second & ~first).sum(), (first & ~second).sum())
        assert row["value"] == pytest.approx(second.mean() - first.mean()) and row["low"] <= row["value"] <= row["high"]
    same = multiple_choice(chat, questions)
    assert (compare_utility(before, same).table["value"] == 0).all()


def test_other_questions_cannot_be_compared(tiny_model, questions):
    chat = tiny_model("llama")
    before = multiple_choice(chat, questions)
    with pytest.raises(DataError, match=r"1 questions, such as 'q0:en', were asked before or after only"):
        compare_utility(before, multiple_choice(chat, questions.iloc[1:]))
    with pytest.raises(DataError, match="same ids and other texts"):
        compare_utility(before, multiple_choice(chat, questions.assign(question="Name three rivers")))


def test_questions_that_cannot_be_asked_are_named(tiny_model, questions):
    chat = tiny_model("llama")
    with pytest.raises(DataError, match="'q0:en' has 4 choices and the key 4"):
        multiple_choice(chat, questions.assign(key=[4, *questions["key"][1:]]))
    with pytest.raises(DataError, match=r"lack the columns \['key'\]"):
        multiple_choice(chat, questions.drop(columns="key"))
    with pytest.raises(DataError, match="'q0:en' occurs twice"):
        multiple_choice(chat, pd.concat([questions, questions]))
    with pytest.raises(ModelError, match="such as q0:en, are longer"):
        multiple_choice(chat, questions.assign(question="rivers " * 300))


def test_a_tie_between_letters_is_no_right_answer():
    from workbench.behavior.utility import _decided

    assert not _decided(np.zeros(4), 0)["correct"]
    assert _decided(np.array([1.0, 0.0]), 0) == pytest.approx({"choice": 0, "correct": True, "margin": 1.0, "entropy": 0.5822}, abs=1e-4)


def test_word_problems_are_right_where_the_last_number_is_the_key(tiny_model, tmp_path, monkeypatch):
    problems = pd.DataFrame(
        [
            {"item_id": f"p{i}:{tag}", "meaning_id": f"p{i}", "language": tag, "question": f"How many rivers, {i}?", "answer": answer}
            for i, (tag, answer) in enumerate([("en", 2125.0), ("de", 1234.5), ("bn", 18.0), ("en", 7.0)])
        ]
    )
    said = dict(zip(problems["item_id"], ["First 3, so $2,125.", "Das sind 1.234,50 Euro", "উত্তর ১৮।", "It is 7, or rather 8"], strict=True))

    def fake(chat, grid, **_options):
        assert "as a number" in grid.frame["text"].iloc[0] and not grid.frame["harmful"].any()
        return pd.DataFrame({"prompt_id": list(said), "reply": list(said.values()), "finished": True}).sample(frac=1, random_state=0)

    monkeypatch.setattr("workbench.behavior.utility.generate", fake)
    found = word_problems(tiny_model("llama"), problems)
    assert found.table["correct"].tolist() == [True, True, True, False]
    assert found.accuracy()["value"].tolist() == [0.5, 1.0, 1.0]
    monkeypatch.undo()
    real = word_problems(tiny_model("llama"), problems, max_new_tokens=3, out=tmp_path / "mgsm.jsonl", progress=False)
    assert len(real.table) == 4 and (tmp_path / "mgsm.jsonl").exists()


def test_keyed_answers_of_harmless_prompts_are_a_utility():
    rows = [{"language": "qaa", "meaning_id": f"m{i}", "text": f"ask {i}", "harmful": i < 2} for i in range(6)]
    grid = PromptGrid(pd.DataFrame(rows))
    outcomes = pd.DataFrame({"prompt_id": [f"m{i}:qaa" for i in range(6)], "outcome": "compliance", "judge": "exact", "validated": True})
    outcomes["correct"] = pd.Series([None, None, True, True, False, True], dtype=object)
    assert answer_utility(outcomes, grid).accuracy()[["value", "n"]].values.tolist() == [[0.75, 4]]
    with pytest.raises(DataError, match="has a key"):
        answer_utility(outcomes.assign(correct=None), grid)


def test_results_survive_saving(tmp_path, tiny_model, questions):
    found = multiple_choice(tiny_model("llama"), questions)
    loaded = Utility.load(found.save(tmp_path / "utility.parquet"))
    pd.testing.assert_frame_equal(loaded.accuracy(), found.accuracy())


# ---------------------------------------------------------------------- files


def test_mmlu_is_read_with_and_without_a_header(tmp_path):
    (tmp_path / "anatomy_test.csv").write_text('Which is a bone?,Rib,Ear,"Eye, left",Nose,A\nWhich is not?,Rib,Ulna,Eye,Tibia,C\n', encoding="utf-8")
    found = read_questions(tmp_path / "anatomy_test.csv")
    assert found["key"].tolist() == [0, 2] and found["choices"][0] == ("Rib", "Ear", "Eye, left", "Nose") and set(found["language"]) == {"en"}
    assert found["item_id"][1] == "mmlu:anatomy_test:1:en"
    rows = [{"question": "Which is a bone?", "subject": "anatomy", "choices": ["Rib", "Ear", "Eye", "Nose"], "answer": 3}]
    pd.DataFrame(rows).to_parquet(tmp_path / "mmlu.parquet")
    again = read_questions(tmp_path / "mmlu.parquet", language="eng")
    assert (again["key"][0], again["language"][0], again["choices"][0]) == (3, "en", ("Rib", "Ear", "Eye", "Nose"))


def test_global_mmlu_and_xcopa_rows_of_one_place_share_their_meaning(tmp_path):
    for tag in ("sw", "si"):
        row = {"sample_id": "anatomy/test/1", "subject": "anatomy", "question": f"{tag}?", "answer": "D"} | {f"option_{c}": c for c in "abcd"}
        (tmp_path / f"{tag}.jsonl").write_text(json.dumps(row) + "\n", encoding="utf-8")
    found = pd.concat([read_questions(tmp_path / f"{tag}.jsonl") for tag in ("sw", "si")])
    assert found["meaning_id"].nunique() == 1 and found["language"].tolist() == ["sw", "si"] and set(found["key"]) == {3}
    row = {"premise": "Ua lilinyauka.", "choice1": "Lilikosa maji.", "choice2": "Lilikua.", "question": "cause", "label": 0, "idx": 4}
    (tmp_path / "test.sw.jsonl").write_text(json.dumps(row) + "\n", encoding="utf-8")
    (xcopa,) = read_questions(tmp_path / "test.sw.jsonl").to_dict("records")
    assert xcopa["item_id"] == "xcopa:4:sw" and "What was the cause?" in xcopa["question"] and xcopa["key"] == 0


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"question": "q", "choices": ["a", "b"], "answer": "C"}, "line 1: the answer is none of the 2 choices"),
        ({"question": " ", "choices": ["a", "b"], "answer": "A"}, "line 1: the question or a choice is empty"),
        ({"question": "q", "options": 3}, r"has the columns 'question', 'options'. Expected those of a known set"),
        ({"premise": "p", "choice1": "a", "choice2": "b", "question": "why", "label": 0}, "neither 'cause' nor 'effect'"),
    ],
)
def test_rows_that_are_no_questions_are_named_by_line(tmp_path, row, message):
    (tmp_path / "en.jsonl").write_text(json.dumps(row) + "\n", encoding="utf-8")
    with pytest.raises(PromptError, match=message):
        read_questions(tmp_path / "en.jsonl")


def test_a_file_that_does_not_say_its_language_or_format_asks_for_it(tmp_path):
    (tmp_path / "questions.jsonl").write_text(json.dumps({"question": "q", "choices": ["a", "b"], "answer": "A"}) + "\n", encoding="utf-8")
    folder = tmp_path / "questions.jsonl"
    with pytest.raises(PromptError, match="Give language="):
        read_questions(folder)
    with pytest.raises(PromptError, match="Did you mean 'mgsm'"):
        read_questions(folder, format="msgm")


def test_the_public_files_are_read(shared_dir):
    """MGSM: 250 problems in 11 languages, the keys alike; XCOPA: 500 test items per language, about half with each key."""
    folder = shared_dir / "data"
    if not (folder / "mgsm").is_dir() or not (folder / "xcopa").is_dir():
        pytest.skip("no MGSM or XCOPA in the shared data")
    mgsm = pd.concat([read_questions(path) for path in sorted((folder / "mgsm").glob("*.tsv"))])
    assert mgsm.groupby("language").size().eq(250).all() and mgsm["language"].nunique() == 11
    assert mgsm.groupby("meaning_id")["answer"].nunique().eq(1).all()
    xcopa = pd.concat([read_questions(path) for path in sorted((folder / "xcopa").glob("data/*/test.*.jsonl"))])
    assert xcopa.groupby("language").size().eq(500).all() and xcopa["language"].nunique() == 11
    assert abs(xcopa["key"].mean() - 0.5) < 0.05


# ---------------------------------------------------------------------- numbers


@pytest.mark.parametrize(
    ("text", "numbers"),
    [
        ("the answer is 18.", {18}),
        ("#### 1,125", {1125, 1.125}),
        ("La réponse est 1 234 567 euros", {1234567}),
        ("১,২৩,৪৫৬", {123456}),
        ("٣٫٥", {3.5}),
        ("答えは１２です", {12}),
        ("คำตอบคือ ๔๒", {42}),
        ("between 3 and −4", {-4}),
        ("covid-19", {19}),
        ("12 7", {7}),
        ("0.5", {0.5}),
        ("no number", set()),
        ("", set()),
        ("1.2.3.4", set()),
    ],
)
def test_the_last_number_is_read_in_any_script(text, numbers):
    assert last_number(text) == numbers


@settings(max_examples=100, deadline=None)
@given(st.integers(-(10**9), 10**9), st.sampled_from(["٠", "०", "০", "๐", "0"]), st.sampled_from([",", ".", " ", ""]))
def test_any_whole_number_is_found_again_however_it_is_spelled(number, zero, mark):
    grouped = f"{number:,}".replace(",", mark)
    spelled = "".join(chr(ord(zero) + int(c)) if c.isdecimal() else c for c in grouped)
    assert number in last_number(f"x {spelled} y")


@settings(max_examples=100, deadline=None)
@given(st.text(max_size=40))
def test_any_text_can_be_searched_for_a_number(text):
    assert all(np.isfinite(value) for value in last_number(text))
    read_number(text)
