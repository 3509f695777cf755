"""The language track end to end: on the organism, whose words each belong to one language, and on tiny random models."""

from __future__ import annotations

import numpy as np
import pytest

from tests.tiny import build_grid
from workbench.diagnosis.lens import track_languages
from workbench.errors import DataError, ModelError, PromptError
from workbench.models.hooks import edited
from workbench.models.load import load_model
from workbench.organism.world import World
from workbench.prompts import load_prompts

pytestmark = pytest.mark.filterwarnings("ignore")  # transformer_lens and what it imports warn at import


@pytest.fixture(scope="module")
def prompts():
    return load_prompts("organism")


@pytest.fixture(scope="module")
def aligned():
    return load_model("organism:aligned")


@pytest.fixture(scope="module")
def aligned_track(aligned, prompts):
    return track_languages(aligned, prompts, max_meanings=16, permutations=20, progress=False)


def shares(result, layer, *, position="t_post_inst", spoken="own", column="attributed"):
    table = result.rollup()
    here = table[(table["position"] == position) & (table["layer"] == layer) & (table["spoken"] == spoken)]
    return here.set_index("language")[column]


def split_grid(n=12):
    return build_grid(n).with_splits()


def test_the_aligned_organism_answers_in_the_language_of_the_prompt_and_the_lens_says_so(aligned_track, prompts):
    last = shares(aligned_track, 8)
    assert last.index.tolist() == prompts.languages and last.min() > 0.9
    assert shares(aligned_track, 8, column="attributed_low").min() > shares(aligned_track, 8, column="attributed_control_95").max()
    summary = aligned_track.summary()
    named = summary[summary["position"] == "t_post_inst"]
    assert named["spoken"].tolist() == named["language"].tolist()


def test_in_the_middle_the_organism_s_low_resource_prompts_are_read_less_in_their_own_language(aligned_track, prompts):
    low = [tag for tag, tier in prompts.tiers.items() if tier == "low"]
    middle, last = shares(aligned_track, 4)[low], shares(aligned_track, 8)[low]
    assert (middle < last - 0.3).all()
    assert (shares(aligned_track, 4, spoken="reference")[low] > shares(aligned_track, 8, spoken="reference")[low]).all()


def test_a_constant_token_is_undefined_and_the_template_s_token_is_unseen(aligned_track):
    assert shares(aligned_track, 0).isna().all()
    assert (shares(aligned_track, 3, position="t_inst", column="unseen") > 0.9).all()  # the lens says the token that follows the request


def test_without_the_keyed_replies_no_answer_word_is_known_and_no_language_is_named(aligned, prompts):
    result = track_languages(aligned, prompts, layers=[8], positions=["t_post_inst"], replies=False, max_meanings=6, permutations=5, progress=False)
    assert shares(result, 8, column="unseen").min() > 0.9
    assert result.spoken()["spoken"].isna().all()
    assert result.provenance["counted"] == {"text": 1600}


def test_the_base_s_judgements_are_known_once_more_text_is_given(prompts):
    base = load_model("organism:base")
    words = {tag: [" ".join(words.values())] for tag, words in World().words.items()}
    options = dict(layers=[8], positions=["t_post_inst"], max_meanings=6, permutations=5, progress=False)
    less, more = track_languages(base, prompts, **options), track_languages(base, prompts, texts=words, **options)
    assert shares(less, 8, column="unseen").mean() > 0.2 > 0.01 > shares(more, 8, column="unseen").max()
    assert shares(more, 8).min() > 0.85 > shares(less, 8).mean()


def test_only_meanings_that_are_not_scored_are_counted(tiny_model):
    chat, grid = tiny_model("llama"), split_grid()
    result = track_languages(chat, grid, layers=[4], permutations=2, progress=False)
    frame = grid.frame
    fitted = frame.loc[frame["split"] == "fit", "text"]
    tokens = {i for t in chat.tokenise(fitted.tolist()) for i in t.ids[t.inst_start : t.inst_end]}
    assert result.provenance["token_languages"]["kinds"] == len(tokens)
    assert result.provenance["counted"] == {"text": len(fitted)} and not result.provenance["own_tokens_counted"]
    rest = track_languages(chat, grid, split="fit", layers=[4], permutations=2, progress=False)
    assert rest.provenance["counted"] == {"text": len(frame) - len(fitted)}


def test_without_splits_all_prompts_are_counted_and_the_result_says_so(tiny_model):
    grid = build_grid(6)
    with pytest.raises(PromptError, match=r"no splits.*Call grid.with_splits"):
        track_languages(tiny_model("llama"), grid, progress=False)
    result = track_languages(tiny_model("llama"), grid, split=None, layers=[0, 4], permutations=2, progress=False)
    assert result.provenance["own_tokens_counted"] and set(result.table["n"]) == {6}
    assert result.provenance["own_text"]["en"] > 0.5  # its own tokens, attributed to itself


def test_meanings_are_drawn_by_the_generator_half_of_each_class(tiny_model):
    grid = split_grid(40)
    options = dict(max_meanings=4, layers=[4], positions=["t_inst"], permutations=2, progress=False)
    first, again, other = (track_languages(tiny_model("llama"), grid, rng=np.random.default_rng(seed), **options).table for seed in (0, 0, 5))
    assert set(first["n"]) == {4} and first.equals(again) and not first["share"].equals(other["share"])


def test_the_result_names_what_it_rests_on(tiny_model):
    chat, grid = tiny_model("qwen2"), split_grid()
    with edited(chat, {2: lambda residual: residual + 1.0}):
        result = track_languages(chat, grid, reference=["en"], layers=[2], permutations=2, smoothing=1.0, progress=False)
    known = result.provenance
    assert known["fingerprint"] == chat.fingerprint and known["grid"] == grid.hash and known["split"] == "score"
    assert known["reference"] == ["en"] and known["token_languages"]["smoothing"] == 1.0 and len(known["edits"]) == 1
    assert known["token_languages"]["languages"] == ["en", "fr"]


def test_further_texts_may_add_languages_under_any_spelling(tiny_model):
    result = track_languages(
        tiny_model("llama"), split_grid(), texts={"eng": ["bread at home"], "swh": ["mkate"]}, layers=[4], permutations=2, progress=False
    )
    assert result.provenance["token_languages"]["languages"] == ["en", "fr", "sw"] and result.provenance["counted"]["texts"] == 2
    assert set(result.table["spoken"]) == {"en", "fr", "sw", "own", "reference", "other"} and set(result.table["language"]) == {"en", "fr"}


def test_one_bar_and_none_when_not_wanted(tiny_model, capsys):
    for wanted in (True, False):
        track_languages(tiny_model("llama"), split_grid(), layers=[0, 4], permutations=2, progress=wanted)
        shown = capsys.readouterr()
        assert shown.out == "" and ("logit lens LlamaForCausalLM: 100%" in shown.err) == wanted
        assert wanted or shown.err == ""


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"reference": ["sw"]}, PromptError, "Language 'sw' .* is not in these prompts"),
        ({"split": "scor"}, PromptError, "Did you mean 'score'"),
        ({"layers": [7]}, ModelError, "no layer 7"),
        ({"positions": ["mean_inst"]}, ModelError, "predicts none"),
        ({"max_meanings": 1}, DataError, "max_meanings is 1; expected at least 2"),
        ({"texts": {"xx": ["bread"]}}, PromptError, "Unknown language"),
        ({"texts": {"en": ["  "]}}, PromptError, r"Empty text in prompts texts\['en'\]\[0\]"),
    ],
)
def test_what_cannot_be_tracked_is_refused(tiny_model, options, error, message):
    with pytest.raises(error, match=message):
        track_languages(tiny_model("llama"), split_grid(), progress=False, **options)


def test_one_language_is_refused(tiny_model):
    with pytest.raises(DataError, match="All scored prompts are in 'en'"):
        track_languages(tiny_model("llama"), split_grid().select(languages=["en"]), progress=False)
