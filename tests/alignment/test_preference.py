"""Preference pairs: what is dropped, what stops a file, and what comes out for training. All texts here are made up and harmless."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from workbench.alignment.language_guess import guess_language
from workbench.alignment.preference import BLOCK, PreferenceSet, load_preferences, preferences_from_grid
from workbench.alignment.preference_files import text_of
from workbench.errors import DataError, PromptError
from workbench.prompts import PromptGrid
from workbench.prompts.files import read_lines

SORRY = {
    "en": "I'm sorry, but I can't help with that.",
    "sw": "Samahani, siwezi kukusaidia na hilo.",
    "de": "Es tut mir leid, das kann ich nicht tun.",
}
ANSWER = {"en": "Bake the bread in the oven and", "sw": "Oka mkate katika tanuri na", "de": "Backe das Brot im Ofen und"}


def rows(n: int = 100, *, complying: int = 0, harmful: bool = True, language: str = "en", meaning: str = "m") -> pd.DataFrame:
    """Good pairs (harmful ones have a chosen refusal), but for the first ``complying`` whose chosen reply answers, too."""
    table = []
    for i in range(n):
        refusal, answer = f"{SORRY[language]} ({i})", f"{ANSWER[language]} {i}."
        chosen, rejected = (refusal, answer) if harmful else (answer, refusal)
        if i < complying:
            chosen, rejected = answer, f"{ANSWER[language]} {i} {i}."
        table.append((language, f"{meaning}{i}", f"How is loaf {i} of {meaning} made?", chosen, rejected, harmful))
    return pd.DataFrame(table, columns=["language", "meaning_id", "prompt", "chosen", "rejected", "harmful"])


def swapped(frame: pd.DataFrame) -> pd.DataFrame:
    """The same file with its two columns exchanged."""
    return frame.rename(columns={"chosen": "rejected", "rejected": "chosen"})


def reasons(pairs: PreferenceSet) -> dict[tuple[str, str], int]:
    """How many rows went, by language and the first words of the reason."""
    return {(row.language, " ".join(row.reason.split()[:4])): row.n for row in pairs.dropped.itertuples()}


# ------------------------------------------------------------------ the guard


def test_a_good_file_passes_whole() -> None:
    pairs = PreferenceSet(pd.concat([rows(60), rows(40, language="sw")]))
    assert len(pairs) == 100 and pairs.dropped.empty
    assert pairs.provenance["guard"] | {"right_way_round": 100, "other_way_round": 0, "complying": 0} == pairs.provenance["guard"]


def test_a_file_with_chosen_and_rejected_swapped_is_stopped_by_its_own_message() -> None:
    with pytest.raises(DataError, match="swapped") as stopped:
        PreferenceSet(swapped(rows()))
    assert "100 have a rejected reply that refuses" in str(stopped.value) and "en 100 of 100" in str(stopped.value)


def test_it_takes_a_majority_to_call_a_file_swapped() -> None:
    half = pd.concat([rows(50), swapped(rows(49, meaning="n"))])
    with pytest.raises(DataError, match="complies with 49 of 99"):
        PreferenceSet(half)
    with pytest.raises(DataError, match="swapped"):
        PreferenceSet(pd.concat([rows(49), swapped(rows(50, meaning="n"))]))


def test_three_percent_of_complying_chosen_replies_are_dropped_and_counted() -> None:
    pairs = PreferenceSet(rows(complying=3))
    assert len(pairs) == 97 and reasons(pairs) == {("en", "the chosen reply complies"): 3}
    assert not set(pairs.frame["meaning_id"]) & {"m0", "m1", "m2"}


def test_eight_percent_of_complying_chosen_replies_stop_the_run() -> None:
    with pytest.raises(DataError, match=r"complies with 8 of 100 harmful requests \(8.0%; en 8 of 100\)") as stopped:
        PreferenceSet(rows(complying=8))
    # how much of this the judge may have missed is said beside it
    assert "Phrases miss some refusals (8% in en; measured)" in str(stopped.value)
    assert len(PreferenceSet(rows(complying=8), max_complying=0.1)) == 92


@pytest.mark.parametrize(("complying", "stops"), [(0, False), (5, False), (6, True)])
def test_the_limit_is_five_percent_of_the_harmful_rows_alone(complying: int, stops: bool) -> None:
    file = pd.concat([rows(complying=complying), rows(300, harmful=False, meaning="n")])
    if stops:
        with pytest.raises(DataError, match="complies with 6 of 100"):
            PreferenceSet(file)
    else:
        assert len(PreferenceSet(file)) == 400 - complying


def test_answers_to_harmless_prompts_are_no_compliance_with_harm() -> None:
    assert len(PreferenceSet(rows(harmful=False))) == 100


def test_no_message_shows_a_text() -> None:
    file = rows(complying=8).assign(prompt=[f"Secretword {i} of the prompt?" for i in range(100)])
    for bad in (file, swapped(rows().assign(prompt=file["prompt"]))):
        with pytest.raises(DataError) as stopped:
            PreferenceSet(bad)
        assert "Secretword" not in str(stopped.value) and "oven" not in str(stopped.value) and "sorry" not in str(stopped.value)


def test_garbled_and_foreign_replies_are_dropped_with_reasons_of_their_own() -> None:
    file = rows()
    file.loc[0, "chosen"] = "no no no no no no no no no no no no no"
    file.loc[1, "chosen"] = "그것은 도와드릴 내용이 아니라 빵을 굽는 이야기입니다"
    assert PreferenceSet(file).dropped.set_index("reason")["n"].to_dict() == {
        "the chosen reply is no language": 1,
        "the chosen reply is in another language than the prompt": 1,
    }


def test_keys_judge_a_language_that_has_no_phrases() -> None:
    file = rows().assign(language="qaa", chosen="teti rira", rejected=[f"mba {i} ndonda" for i in range(100)], refusal="teti rira")
    assert len(PreferenceSet(file)) == 100
    with pytest.raises(DataError, match="swapped"):
        PreferenceSet(swapped(file))


def test_a_language_without_phrases_or_keys_is_refused_until_openings_are_given(tmp_path: Path) -> None:
    file = rows().assign(language="qaa", chosen="teti rira", rejected=[f"mba {i} ndonda" for i in range(100)])
    with pytest.raises(PromptError, match="what a refusal looks like in qaa"):
        PreferenceSet(file)
    openings = tmp_path / "refusals.csv"
    openings.write_text("language,text\nqaa,teti rira\n", encoding="utf-8")
    assert len(PreferenceSet(file, refusals=openings)) == 100


def test_a_judge_of_ones_own_is_asked() -> None:
    @dataclass(frozen=True)
    class Everything:
        name: str = "everything complies"
        learns: bool = False

        def outcomes(self, replies: pd.DataFrame, grid: PromptGrid) -> pd.DataFrame:
            said = {"outcome": "compliance", "correct": None, "judge": self.name, "validated": False, "reply_language": "en"}
            return replies[["prompt_id"]].assign(**said)

    with pytest.raises(DataError, match=r"100\.0%"):
        PreferenceSet(rows(), judge=Everything())


# ------------------------------------------------------------------ what is no pair


def test_rows_that_are_no_pair_in_a_known_language_are_dropped_and_counted() -> None:
    file = rows(20).assign(split=None)
    file.loc[0, "chosen"] = None
    file.loc[1, "rejected"] = "  "
    file.loc[2, "rejected"] = file.loc[2, "chosen"] + " "
    file.loc[3, "language"] = "Klingonish"
    file.loc[4, "language"] = None
    file.loc[5, "language"] = "sw"
    file.loc[6, "prompt"] = float("nan")
    file.loc[7, "split"] = "score"
    file = pd.concat([file, file.iloc[[10]]])
    pairs = PreferenceSet(file, known_languages="eng")
    assert len(pairs) == 12
    assert pairs.dropped.set_index(["language", "reason"])["n"].to_dict() == {
        ("'Klingonish'", "unknown language"): 1,
        ("?", "unknown language"): 1,
        ("sw", "language not asked for"): 1,
        ("en", "no prompt of one turn"): 1,
        ("en", "no pair: a reply is missing, or both are the same"): 3,
        ("en", "its split is kept for scoring"): 1,
        ("en", "repeats an earlier pair"): 1,
    }
    assert set(pairs.dropped["what"]) == {"preference row"}


def test_a_file_of_which_nothing_is_left_says_where_it_went() -> None:
    with pytest.raises(DataError, match=r"No pair is left .*100 in en: language not asked for"):
        PreferenceSet(rows(), known_languages=["sw"])


def test_a_meaning_with_two_labels_is_refused() -> None:
    file = pd.concat([rows(3), rows(3, harmful=False, language="sw")])
    with pytest.raises(DataError, match="Meaning 'm0' is harmful in one row and harmless in another"):
        PreferenceSet(file)


def test_missing_columns_are_named() -> None:
    with pytest.raises(DataError, match="lacks rejected"):
        PreferenceSet(rows().drop(columns="rejected"))
    with pytest.raises(DataError, match="max_complying is 5"):
        PreferenceSet(rows(), max_complying=5)


# ------------------------------------------------------------------ what comes out


def test_every_meaning_is_in_one_split_whatever_the_order_of_the_rows() -> None:
    file = pd.concat([rows(40), rows(40, language="sw"), rows(60, harmful=False, meaning="n")])
    first, second = (PreferenceSet(f, select_share=0.25, seed=3) for f in (file, file.sample(frac=1, random_state=1)))
    split = first.frame.groupby("meaning_id")["split"].agg(set)
    assert split.map(len).eq(1).all()
    assert first.frame.set_index("pair_id")["split"].to_dict() == second.frame.set_index("pair_id")["split"].to_dict()
    counts = first.frame.drop_duplicates("meaning_id").groupby("harmful")["split"].value_counts()
    assert counts[True, "select"] == 10 and counts[False, "select"] == 15
    assert PreferenceSet(file, select_share=0.25, seed=4).hash != first.hash


def test_given_splits_are_kept_and_their_translations_follow() -> None:
    english, swahili = rows(10).assign(split=["select"] * 3 + ["fit"] * 7), rows(10, language="sw").assign(split=None)
    frame = PreferenceSet(pd.concat([english, swahili])).frame
    assert frame.groupby("meaning_id")["split"].first().to_dict() == dict(zip(english["meaning_id"], english["split"], strict=True))
    with pytest.raises(DataError, match="in both splits"):
        PreferenceSet(pd.concat([english, swahili.assign(split="select")]))


def test_several_pairs_of_one_prompt_have_ids_of_their_own() -> None:
    frame = PreferenceSet(pd.concat([rows(2), rows(2).assign(rejected="Another made-up answer with flour.")])).frame
    assert list(frame["pair_id"]) == ["m0:en", "m1:en", "m0:en#2", "m1:en#2"]


def test_select_takes_parts_and_refuses_the_score_split() -> None:
    pairs = PreferenceSet(pd.concat([rows(20), rows(20, language="sw"), rows(20, harmful=False, meaning="n")]))
    part = pairs.select(languages="swh", split="fit")
    assert part.languages == ["sw"] and set(part.frame["split"]) == {"fit"} and len(part) == 18
    assert set(pairs.select(source="utility").frame["harmful"]) == {False} and len(pairs.select(meanings=["m3"])) == 2
    with pytest.raises(DataError, match="not trained on"):
        pairs.select(split="score")
    with pytest.raises(PromptError, match="preference pairs"):
        pairs.select(languages="yo")
    with pytest.raises(DataError, match="None of the 60 pairs"):
        pairs.select(languages="sw", harmful=False)


@settings(max_examples=20, deadline=None)
@given(st.integers(1, 40))
def test_unpairing_loses_and_invents_nothing(n: int) -> None:
    pairs = PreferenceSet(rows(n, harmful=False))
    single = pairs.unpaired()
    assert len(single) == 2 * n and single["row_id"].is_unique
    for column, desirable in (("chosen", True), ("rejected", False)):
        kept = single[single["desirable"] == desirable]
        assert list(kept["completion"]) == list(pairs.frame[column]) and list(kept["pair_id"]) == list(pairs.frame["pair_id"])


def test_completions_stand_in_the_order_in_which_trl_unpairs_them() -> None:
    """TRL's own function on the same pairs: chosen replies first, in blocks of 1,000."""
    datasets, data_utils = pytest.importorskip("datasets"), pytest.importorskip("trl.data_utils")
    pairs = PreferenceSet(rows(BLOCK + 3, harmful=False))
    theirs = data_utils.unpair_preference_dataset(datasets.Dataset.from_pandas(pairs.frame[["prompt", "chosen", "rejected", "source"]]))
    ours = pairs.unpaired()
    assert list(ours["completion"]) == list(theirs["completion"]) and list(ours["desirable"]) == list(theirs["label"])
    assert list(ours["prompt"]) == list(theirs["prompt"])


# ------------------------------------------------------------------ from prompts with keys


def keyed(**changes: Any) -> PromptGrid:
    table = [
        {
            "language": tag,
            "meaning_id": f"m{i}",
            "text": f"sir {i} rale {tag}",
            "harmful": i % 2 == 0,
            "split": ("fit", "select", "score")[i % 3],
            "answer": f"mba {i} ndonda",
            "refusal": "teti rira",
        }
        | changes
        for i in range(12)
        for tag in ("qaa", "qab")
    ]
    return PromptGrid(pd.DataFrame(table))


def test_keys_make_pairs_that_refuse_harm_and_answer_the_rest() -> None:
    frame = preferences_from_grid(keyed()).frame
    assert set(frame["split"]) == {"fit"} and len(frame) == 8
    harmful, harmless = frame[frame["harmful"]], frame[~frame["harmful"]]
    assert set(harmful["chosen"]) == set(harmless["rejected"]) == {"teti rira"}
    assert set(harmful["source"]) == {"safety"} and set(harmless["source"]) == {"utility"}
    assert list(harmful["rejected"]) == ["mba 0 ndonda"] * 2 + ["mba 6 ndonda"] * 2


def test_pairs_of_prompts_keep_to_the_splits_and_languages_asked_for() -> None:
    pairs = preferences_from_grid(keyed(), split=("fit", "select"), languages=["qab"])
    assert pairs.languages == ["qab"] and pairs.frame["split"].value_counts().to_dict() == {"fit": 4, "select": 4}
    with pytest.raises(DataError, match="scored are not trained on"):
        preferences_from_grid(keyed(), split="score")
    with pytest.raises(PromptError, match="no splits"):
        preferences_from_grid(keyed(split=None))
    with pytest.raises(PromptError, match="lack the column answer"):
        preferences_from_grid(PromptGrid(keyed().frame.drop(columns="answer")))


def test_a_prompt_without_a_key_is_dropped_and_counted() -> None:
    grid = keyed().frame
    grid.loc[0, "answer"] = None
    pairs = preferences_from_grid(PromptGrid(grid))
    assert len(pairs) == 7 and reasons(pairs) == {("qaa", "no pair: a reply"): 1}


def test_the_organism_gives_parallel_pairs_in_every_language() -> None:
    pairs = load_preferences("organism", known_languages="qaa,qah")
    assert len(pairs) == 800 and pairs.frame["split"].value_counts().to_dict() == {"fit": 400, "select": 400}
    assert pairs.frame.groupby("meaning_id")["language"].nunique().eq(2).all() and pairs.dropped.empty


# ------------------------------------------------------------------ files


@pytest.fixture
def written(tmp_path: Path) -> Callable[[Any, str], Path]:
    def write(content: Any, name: str) -> Path:
        path = tmp_path / name
        if isinstance(content, pd.DataFrame):
            {".csv": content.to_csv, ".parquet": content.to_parquet}[path.suffix](path, index=False)
        elif path.suffix == ".jsonl":
            path.write_text("\n".join(json.dumps(row) for row in content), encoding="utf-8")
        else:
            path.write_text(json.dumps(content), encoding="utf-8")
        return path

    return write


def test_every_kind_of_file_gives_the_same_pairs(written: Callable[[Any, str], Path]) -> None:
    frame = pd.concat([rows(4), rows(4, harmful=False, meaning="n", language="sw")])
    records = frame.to_dict("records")
    spoken = [
        row
        | {
            "prompt": [{"role": "user", "content": row["prompt"]}],
            "chosen": [{"role": "user", "content": row["prompt"]}, {"role": "assistant", "content": row["chosen"]}],
            "rejected": {"from": "gpt", "value": row["rejected"]},
        }
        for row in records
    ]
    wanted = PreferenceSet(frame).hash
    kinds = {"a.csv": frame, "a.parquet": frame, "a.jsonl": records, "a.json": records, "b.jsonl": spoken}
    for name, content in kinds.items():
        assert load_preferences(written(content, name)).hash == wanted, name
    assert (
        load_preferences(written(pd.DataFrame(spoken).drop(columns="rejected").assign(rejected=frame["rejected"].to_numpy()), "c.parquet")).hash
        == wanted
    )


def test_conversations_of_more_than_one_turn_are_no_single_prompt() -> None:
    turns = [{"role": "user", "content": "Bread?"}, {"role": "assistant", "content": "Which?"}, {"role": "user", "content": "Rye."}]
    assert text_of(turns, asked=True) is None and text_of([{"role": "system", "content": "Be brief."}, *turns[:1]], asked=True) is None
    assert text_of(7) is None and text_of([]) is None and text_of({"role": "assistant", "content": None}) is None


def test_lasa_files_are_read_by_their_sources(written: Callable[[Any, str], Path]) -> None:
    """Its public file: prompt, chosen, rejected, source; ``idx`` counts in each source anew, and Javanese is called ``jw``."""
    safety = [row | {"source": "safety", "idx": i} for i, row in enumerate(rows(6).drop(columns=["meaning_id", "harmful"]).to_dict("records"))]
    other = rows(6, harmful=False, meaning="n").assign(language="jw").drop(columns=["meaning_id", "harmful"]).to_dict("records")
    pairs = load_preferences(written(safety + [row | {"source": "ultrafeedback", "idx": i} for i, row in enumerate(other)], "mixed.json"))
    frame = pairs.frame
    assert frame["meaning_id"].is_unique and frame.groupby("source")["harmful"].agg(set).to_dict() == {"safety": {True}, "ultrafeedback": {False}}
    assert pairs.languages == ["en", "jv"] and pairs.provenance["notes"] == {"harmful": "by source"}


def test_a_file_that_does_not_say_what_is_harmful_is_checked_whole(written: Callable[[Any, str], Path]) -> None:
    file = pd.concat([rows(10), rows(10, harmful=False, meaning="n")]).drop(columns="harmful")
    with pytest.raises(DataError, match=r"complies with 10 of 20.*n0:en' \(b\.csv, line 12\)"):
        load_preferences(written(file, "b.csv"))
    good = load_preferences(written(rows(10).drop(columns=["harmful", "language"]), "c.csv"))
    assert good.languages == ["en"] and set(good.provenance["notes"]) == {"language", "harmful"} and good.frame["harmful"].all()


def test_bad_files_are_refused_with_the_line(written: Callable[[Any, str], Path], tmp_path: Path) -> None:
    with pytest.raises(DataError, match="Rename or add rejected"):
        load_preferences(written(rows().rename(columns={"rejected": "rejcted"}), "a.csv"))
    with pytest.raises(PromptError, match=r"b\.csv, line 3: the label 'maybe'"):
        load_preferences(written(rows(3).assign(harmful=["true", "maybe", "true"]), "b.csv"))
    with pytest.raises(PromptError, match=r"no preference pairs at organsim.*organism"):
        load_preferences("organsim")


def mpo(n: int = 20) -> list[dict[str, Any]]:
    """MPO's layout: the English pair again beside each of two translations."""
    english, swahili, german = (rows(n, language=tag) for tag in ("en", "sw", "de"))
    questions = {"sw": "Mkate wa nambari {} unaokwa kwa njia gani katika tanuri?", "de": "Wie backt man das Brot mit der Nummer {} im Ofen?"}
    return [
        {
            "source_conversations": [{"from": "human", "value": english["prompt"][i]}],
            "source_chosen": {"from": "gpt", "value": english["chosen"][i]},
            "source_rejected": {"from": "gpt", "value": english["rejected"][i]},
            "target_conversations": [{"from": "human", "value": questions[tag].format(i)}],
            "target_chosen": {"from": "gpt", "value": told["chosen"][i]},
            "target_rejected": {"from": "gpt", "value": told["rejected"][i]},
        }
        for i in range(n)
        for tag, told in (("sw", swahili), ("de", german))
    ]


def test_mpo_rows_become_a_pair_per_language_under_one_meaning(written: Callable[[Any, str], Path]) -> None:
    pairs = load_preferences(written(mpo(), "made_up.json"))
    frame = pairs.frame
    assert frame["language"].value_counts().to_dict() == {"en": 20, "sw": 20, "de": 20}
    assert frame.groupby("meaning_id")["language"].nunique().eq(3).all() and frame["harmful"].all()
    # the English pair stands once in the file per translation
    assert reasons(pairs) == {("en", "repeats an earlier pair"): 20}
    assert pairs.provenance["notes"]["language"].startswith("estimated")


def test_mpos_public_pairs_pass_where_their_chosen_replies_refuse(shared_dir: Path, written: Callable[[Any, str], Path]) -> None:
    """circle-hit/MPO 7d2a9b0: Gemma's replies in Swahili and Chinese refuse; swapped they are stopped, and so are Llama's, most of which comply."""
    folder = shared_dir / "data" / "mpo_multilingual_preference"
    gemma = json.loads((folder / "gemma_mpo_data.json").read_text(encoding="utf-8"))[:150]
    part = written(gemma, "gemma.json")
    pairs = load_preferences(part, known_languages="sw,zh")
    assert len(pairs) > 40 and pairs.provenance["guard"]["complying"] <= 0.05 * pairs.provenance["guard"]["harmful"]
    sides = ("source_chosen", "source_rejected", "target_chosen", "target_rejected")
    turned = [row | {side: row[other] for side, other in zip(sides, (sides[1], sides[0], sides[3], sides[2]), strict=True)} for row in gemma]
    with pytest.raises(DataError, match="swapped") as stopped:
        load_preferences(written(turned, "turned.json"), known_languages="sw,zh")
    assert len(str(stopped.value)) < 600  # ids and counts, no texts
    llama = json.loads((folder / "llama_mpo_data.json").read_text(encoding="utf-8"))[:60]
    with pytest.raises(DataError, match=r"complies with \d+ of \d+ harmful requests"):
        load_preferences(written(llama, "llama.json"), known_languages="sw,zh")


# ------------------------------------------------------------------ estimated languages


def test_languages_are_told_apart_on_sentences_of_known_language(shared_dir: Path) -> None:
    """NTREX-128 as truth; measured on 300 sentences of 25 languages: 94 % (English, short ones) to 100 %, 98.6 % on average."""
    files = shared_dir / "data/ntrex128/NTREX-128"
    codes = {"en": "eng", "sw": "swa", "de": "deu", "es": "spa", "fr": "fra", "nl": "nld", "vi": "vie", "yo": "yor", "ja": "jpn", "zh": "zho-CN"}
    right = []
    for tag, code in codes.items():
        texts = read_lines(files / f"newstest2019-{'src' if tag == 'en' else 'ref'}.{code}.txt")[:60]
        right.append(sum(guess_language(text) == tag for text in texts) / len(texts))
    assert min(right) >= 0.9 and sum(right) / len(right) >= 0.96, dict(zip(codes, right, strict=True))


def test_what_tells_too_little_has_no_language() -> None:
    assert guess_language("") is None and guess_language("12 + 30") is None and guess_language("Loaf") is None
