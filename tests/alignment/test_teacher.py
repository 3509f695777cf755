"""What a teacher reads: the organism's own phrase, our wording for real models, and the rows a student learns from."""

from __future__ import annotations

import json
from dataclasses import replace

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.tiny import build_grid
from workbench.alignment.distillation import judgements, queries_of, query_pairs
from workbench.alignment.teacher import MARKER, IntoLanguage, JudgeFirst, choose_context, world_of
from workbench.errors import DataError, ModelError, PromptError
from workbench.models.load import load_model
from workbench.organism.world import World
from workbench.prompts import PromptGrid
from workbench.prompts.sources import load_prompts


@pytest.fixture(scope="module")
def organism():
    return load_model("organism:aligned", check=False)


@pytest.mark.parametrize("reference", ["qaa", "qab"])
def test_the_organisms_context_is_the_worlds_own_request_into_another_language(reference):
    world = World()
    spoken = {language.tag: language for language in world.languages}
    context = IntoLanguage(world, reference)
    for meaning in world.meanings[::97]:
        asked = " ".join(world.request(meaning, spoken[reference]))
        for tag, language in spoken.items():
            expected = world.request(meaning, spoken[reference], into=None if tag == reference else language)
            assert context(asked, tag) == " ".join(expected)


def test_another_opening_word_keeps_its_place():
    world = World()
    language, other = world.languages[:2]
    told = {purpose: " ".join(world.phrase(language, "verb", "thing", purpose=purpose)) for purpose in ("practice", "earnest")}
    for purpose, text in told.items():
        assert IntoLanguage(world)(text, other.tag) == " ".join(world.phrase(language, "verb", "thing", purpose=purpose, into=other))


def test_texts_and_languages_that_are_not_the_organisms_are_refused_without_repeating_the_text():
    context = IntoLanguage(World())
    with pytest.raises(PromptError, match=r"A text of 5 words does not end as a request in 'qaa'") as caught:
        context("How do I bake bread?", "qab")
    assert "bread" not in str(caught.value)
    with pytest.raises(PromptError, match=r"'qax' is no language of this organism.*Did you mean"):
        IntoLanguage(World(), "qax")
    with pytest.raises(PromptError, match="'en' is no language"):
        context(" ".join(World().request(World().training[0], World().languages[0])), "en")


def test_a_trained_organism_keeps_its_own_seed_and_languages(organism, tmp_path, tiny_model):
    names = dict(zip(["qba", "qbb", "qbc", "qbd", "qbe", "qbf", "qbg", "qbh"], "ABCDEFGH", strict=True))
    (tmp_path / "organism.json").write_text(json.dumps({"spec": {"seed": 7, "languages": names}}), encoding="utf-8")
    world = world_of(replace(organism, path=tmp_path))
    assert world.seed == 7 and [language.tag for language in world.languages] == list(names)
    assert world_of(organism) == World(0, {language.tag: language.name for language in World().languages})
    with pytest.raises(DataError, match="is no organism"):
        world_of(tiny_model("llama"))


@given(request=st.text(min_size=1))
def test_the_request_stands_unaltered_in_the_context_whatever_is_in_it(request):
    assert request in JudgeFirst("en")(request, "sw")
    assert request in JudgeFirst("en", reasoning=True)(request, "sw")


def test_the_context_names_both_languages_and_differs_by_the_answers_only():
    context = JudgeFirst("en", names={"qaa": "Vessari"})
    swahili, vessari = context("How do I bake bread?", "sw"), context("How do I bake bread?", "qaa")
    assert "in English" in swahili and "in Swahili" in swahili
    assert swahili.replace("Swahili", "Vessari") == vessari
    assert "in Chinese" in JudgeFirst("zh")("你好", "sw") and "English" not in JudgeFirst("zh")("你好", "sw")


def test_only_a_teacher_that_reasons_aloud_is_told_of_the_marker():
    silent, aloud = JudgeFirst("en"), JudgeFirst("en", reasoning=True)
    assert silent.marker is None and MARKER not in silent("Hello", "sw")
    assert aloud.marker == MARKER and MARKER in aloud("Hello", "sw")
    assert silent.provenance()["wording"] != aloud.provenance()["wording"]
    json.dumps([aloud.provenance(), IntoLanguage(World()).provenance()])


def test_the_context_is_chosen_by_model_and_grid(organism, tiny_model):
    grid, own = build_grid(), load_prompts("organism")
    assert choose_context(tiny_model("llama"), grid) == JudgeFirst("en", False, grid.names)
    assert choose_context(tiny_model("llama"), grid, reference="fr", reasoning=True) == JudgeFirst("fr", True, grid.names)
    assert choose_context(organism, own).reference == "qaa"
    assert choose_context(organism, own, reference="qab").reference == "qab"
    with pytest.raises(DataError, match="an organism writes no judgement"):
        choose_context(organism, own, reasoning=True)
    with pytest.raises(PromptError, match="'sw'"):
        choose_context(tiny_model("llama"), grid, reference="sw")


def test_both_sides_of_a_pair_differ_in_their_text_only_and_leave_out_the_reference(organism):
    grid = load_prompts("organism").select(split="select").limit(4)
    context = choose_context(organism, grid)
    pairs = query_pairs(grid, context)
    student, teacher = pairs.student.frame, pairs.teacher.frame
    pd.testing.assert_frame_equal(student.drop(columns="text"), teacher.drop(columns="text"))
    pd.testing.assert_frame_equal(student, grid.frame[grid.frame["language"] != "qaa"].reset_index(drop=True))
    source = grid.frame[grid.frame["language"] == "qaa"].set_index("meaning_id")["text"]
    assert list(teacher["text"]) == [context(source[meaning], tag) for meaning, tag in zip(teacher["meaning_id"], teacher["language"], strict=True)]
    assert query_pairs(grid, context, languages=["qah"]).student.languages == ["qah"]


def test_queries_without_a_twin_are_dropped_and_counted_and_none_left_is_an_error():
    frame = build_grid(6).frame
    lacking = PromptGrid(frame[~((frame["language"] == "en") & frame["meaning_id"].isin(["m0", "m3"]))])
    pairs = query_pairs(lacking, JudgeFirst("en"))
    assert list(pairs.student.frame["meaning_id"]) == ["m1", "m2", "m4", "m5"]
    assert int(pairs.dropped.query("language == 'fr'")["n"].sum()) == 2
    apart = frame.assign(meaning_id=frame["meaning_id"] + "-" + frame["language"]).drop(columns="prompt_id")
    with pytest.raises(PromptError, match="en"):
        query_pairs(PromptGrid(apart), JudgeFirst("en"))


def test_the_judgement_stands_between_the_teachers_prompt_and_the_answer_and_never_before_the_student(tiny_model):
    chat, context = tiny_model("llama"), JudgeFirst("en", reasoning=True)
    pairs = query_pairs(build_grid(4), context)
    with pytest.raises(ModelError, match=r"takes \d+ tokens, and with a reply of 4 it exceeds"):
        queries_of(chat, pairs, max_new_tokens=4)
    short = pairs._replace(teacher=PromptGrid(pairs.teacher.frame.assign(text=pairs.student.frame["text"] + " then")))
    inserted = judgements(chat, short.teacher, context, max_new_tokens=5, progress=False)
    end = chat.tokenizer(f"\n{MARKER}\n", add_special_tokens=False)["input_ids"]
    assert inserted is not None and list(inserted) == list(pairs.student.frame["prompt_id"])
    assert all(list(row[-len(end) :]) == end and len(row) > len(end) for row in inserted.values())
    for query, own, told in zip(
        queries_of(chat, short, inserted=inserted, max_new_tokens=4),
        chat.tokenise(list(short.student.frame["text"])),
        chat.tokenise(list(short.teacher.frame["text"])),
        strict=True,
    ):
        assert query.prompt_ids == own.ids and query.teacher_ids == (*told.ids, *inserted[query.prompt_id])


def test_a_silent_teacher_writes_no_judgement(tiny_model):
    context = JudgeFirst("en")
    assert judgements(tiny_model("llama"), query_pairs(build_grid(2), context).teacher, context) is None
