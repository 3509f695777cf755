"""A gate and its edits in one prefill: the same decisions and logits as with a pass of its own, whatever batch, padding, order and cache."""

from __future__ import annotations

import asyncio
import copy
import dataclasses
import gc
import json
import os
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.interventions.conftest import FAMILIES, LAYER, TEXTS
from tests.tiny import build_grid, build_model
from workbench.activations.capture import capture
from workbench.behavior.generate import generate, reply_to
from workbench.behavior.stops import Stops
from workbench.directions import Direction, harm_direction
from workbench.errors import DataError, ModelCheckError, ModelError, StoreMismatchError
from workbench.gates import Gate, GateData, Place, gate_data, load_gate, save_gate
from workbench.gates.one_direction import DirectionGate
from workbench.gates.protocol import UNKNOWN as GATES_UNKNOWN
from workbench.interventions import Ablate, Add, Compose, Patch, Route
from workbench.interventions.decisions import OUTCOMES
from workbench.interventions.prompt_languages import UNKNOWN, PromptLanguages
from workbench.interventions.routed import outcomes, position_columns
from workbench.interventions.routing import gate_name
from workbench.models import load_model
from workbench.models.hooks import edited, edits_of, record
from workbench.models.next_token import next_logits
from workbench.models.passes import Batch, announced, current_pass
from workbench.models.tokens import Tokens
from workbench.prompts import PromptGrid, load_prompts

EXAMPLE = Path(__file__).parents[2] / "examples" / "serve_gate.py"
NAMES = ["a", "b", "c"]
REPLY = ("last_prompt", "decode")


class Line(Gate):
    """Scores every fitted row exactly +1 (harmful) or -1 (harmless): far from its threshold, which lies between."""

    learned = ("weight_", "offset_")

    def _learn(self, X, y, language):
        centre = X.mean(axis=0)
        self.weight_ = np.linalg.lstsq(X - centre, np.where(y, 1.0, -1.0) - np.where(y, 1.0, -1.0).mean(), rcond=None)[0]
        self.offset_ = float(np.where(y, 1.0, -1.0).mean() - centre @ self.weight_)

    def _score(self, X, language):
        return X @ self.weight_ + self.offset_


def states_of(chat, tokens, layer, position):
    return chat.states(tokens, layers=[layer], positions=[position])[:, 0, 0].double().numpy()


def place_of(chat, layer=LAYER, position="t_post_inst"):
    return Place(layer, position, chat.fingerprint, chat.template.hash, chat.system or "")


def line(chat, harmful=(True, False, True), *, layer=LAYER, position="t_post_inst", texts=TEXTS, languages=None):
    """Fit a gate that fires on the texts said to be harmful."""
    X, y, names = states_of(chat, chat.tokenise(texts), layer, position), np.array(harmful), np.array([str(i) for i in range(len(texts))])
    tags = np.array(["en"] * len(texts) if languages is None else languages)
    gate = Line().fit(GateData(X, y, tags, names, names, np.array([""] * len(texts)), place_of(chat, layer, position)))
    gate.thresholds_, gate.fallback_ = dict.fromkeys(gate.thresholds_, 0.0), 0.0
    return gate


def read(chat, route, tokens, *, names=None, positions=("t_inst", "t_post_inst")):
    with chat.edited(route):
        states = chat.states(tokens, layers=[LAYER, chat.n_layers], positions=list(positions), prompt_ids=names)
    return states, [d.decision for d in route.decisions]


def moved(found, plain):
    return (found != plain).any(dim=-1)


# --- the same as with a pass of its own --------------------------------------------------------------------------------


@pytest.mark.parametrize("position", ["t_inst", "t_post_inst", "post[1]", "mean_inst"])
@pytest.mark.parametrize("family", FAMILIES)
def test_one_prefill_equals_deciding_in_a_pass_of_its_own(tiny_model, stepper, vector, family, position):
    chat, steps = tiny_model(family), stepper(family)
    gate = line(chat, position=position)
    fires = gate.predict(states_of(chat, steps.tokens, LAYER, position))
    push, clear = {"layers": LAYER, "scope": REPLY}, {"layers": [LAYER, 3]}
    route = Route(gate, flagged=Add(vector, 2.0, **push), unflagged=Ablate(vector, **clear))
    flagged, others = dict(zip(NAMES, fires, strict=True)), dict(zip(NAMES, ~fires, strict=True))
    by_hand = [Add(vector, 2.0, rows=flagged, **push), Ablate(vector, rows=others, **clear)]
    (found, logits), (expected, expected_logits) = steps.run(route, cache=True), steps.run(*by_hand, cache=True)
    assert torch.equal(found, expected) and torch.equal(logits, expected_logits)
    plain, _ = steps.run(cache=True)
    assert moved(found, plain).any(dim=1).all(), "each row must be edited, or the test shows nothing"
    assert route.decisions.rows("flagged") == flagged == {"a": True, "b": False, "c": True}
    score = gate.decision_function(states_of(chat, steps.tokens, LAYER, position))
    np.testing.assert_allclose(route.decisions.to_frame()["score"], score, atol=1e-5)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("scope", ["all", REPLY])
def test_with_a_cache_and_without_logits_and_decisions_are_the_same(tiny_model, stepper, vector, family, scope):
    chat, steps = tiny_model(family), stepper(family)
    route = Route(line(chat, position="t_inst"), flagged=Add(vector, 3.0, layers=LAYER, scope=scope), unflagged=Ablate(vector, layers=LAYER))
    _, cached = steps.run(route, cache=True)
    decided = route.decisions.to_frame()["decision"].tolist()
    _, whole = steps.run(route, cache=False)
    real = steps.region("all")
    torch.testing.assert_close(cached[real], whole[real], atol=2e-5, rtol=2e-5)
    assert decided == route.decisions.to_frame()["decision"].tolist() == ["flagged", "unflagged", "flagged"]


@pytest.mark.parametrize("scope", ["all", "prompt", "instruction", "last_prompt", "decode", REPLY])
def test_tokens_before_the_one_the_gate_reads_are_edited_in_the_same_pass(tiny_model, stepper, vector, scope):
    chat, steps = tiny_model("llama"), stepper("llama")
    plain, _ = steps.run(cache=True)
    found, _ = steps.run(Route(line(chat), flagged=Add(vector, layers=LAYER, scope=scope)), cache=True)
    expected = torch.stack([steps.region(name) for name in ([scope] if isinstance(scope, str) else scope)]).any(dim=0)
    expected[1] = False
    assert torch.equal(moved(found, plain), expected)


def test_the_gate_reads_before_its_own_edits_of_that_layer_and_after_edits_given_before_it(tiny_model, stepper, vector):
    chat, steps = tiny_model("llama"), stepper("llama")
    gate = line(chat)
    own = Route(gate, flagged=Add(vector, 50.0, layers=LAYER), unflagged=Add(vector, 50.0, layers=LAYER))
    steps.run(own, cache=True)
    np.testing.assert_allclose(own.decisions.to_frame()["score"], [1, -1, 1], atol=1e-4)
    away = Add(gate.weight_, -2.0 / np.linalg.norm(gate.weight_), layers=LAYER)  # lowers every score by two
    steps.run(away, own, cache=True)
    np.testing.assert_allclose(own.decisions.to_frame()["score"], [-1, -3, -1], atol=1e-4)


def test_every_kind_of_edit_and_several_can_be_routed_with_rows_of_their_own(tiny_model, stepper, vector):
    chat, steps = tiny_model("llama"), stepper("llama")
    gate = line(chat)
    rows = {"a": 0.5, "b": True, "c": True}
    some = [Add(vector, 0.3, "norm", layers=3, rows=rows), Patch(4.0, layers="blocks.2.hook_mlp_out", along=vector)]
    found, logits = steps.run(Route(gate, flagged=some, unflagged=Compose((Ablate(vector, layers=4),))), cache=True, layer=4)
    kept = {"a": 0.5, "b": False, "c": True}
    on = {"a": True, "b": False, "c": True}
    by_hand = [Add(vector, 0.3, "norm", layers=3, rows=kept), Patch(4.0, layers="blocks.2.hook_mlp_out", along=vector, rows=on)]
    expected, expected_logits = steps.run(*by_hand, Ablate(vector, layers=4, rows={"a": 0, "b": 1, "c": 0}), cache=True, layer=4)
    assert torch.equal(logits, expected_logits) and torch.equal(found, expected)


def test_the_published_routing_pushes_by_the_gap_and_clears_the_rest(tiny_model, stepper, vector):
    chat, steps = tiny_model("llama"), stepper("llama")
    unit = vector / np.linalg.norm(vector)
    direction = Direction(unit, 1.0, LAYER, "t_post_inst", {"fingerprint": chat.fingerprint, "gap": 7.0})
    plain, _ = steps.run(cache=True)
    found, _ = steps.run(Route.along(line(chat), direction), cache=True)
    replied, real = steps.region("last_prompt") | steps.region("decode"), steps.region("all")
    along = torch.from_numpy(unit).float()
    for row in (0, 2):
        expected = plain[row] + 7.0 * replied[row].unsqueeze(-1) * along
        torch.testing.assert_close(found[row], expected, atol=1e-5, rtol=1e-5)
    assert (found[1] @ along)[real[1]].abs().max() < 1e-5
    bare = dataclasses.replace(direction, metadata={})
    with pytest.raises(DataError, match="carries no gap"):
        Route.along(line(chat), bare)


# --- batch, padding, order ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", FAMILIES)
def test_a_decision_does_not_depend_on_batch_padding_or_order(tiny_model, vector, family):
    chat = tiny_model(family)
    tokens = chat.tokenise(TEXTS)
    for position in ("t_inst", "t_post_inst", "post[0]"):
        route = Route(line(chat, position=position), flagged=Add(vector, 2.0, layers=LAYER), unflagged=Ablate(vector, layers=3))
        together, decided = read(chat, route, tokens)
        assert decided == ["flagged", "unflagged", "flagged"]
        backwards, turned = read(chat, route, tokens[::-1])
        torch.testing.assert_close(backwards.flip(0), together, atol=2e-5, rtol=2e-5)
        assert turned == decided[::-1]
        for row, one in enumerate(tokens):
            alone, single = read(chat, route, [one])
            torch.testing.assert_close(alone[0], together[row], atol=2e-5, rtol=2e-5)
            assert single == [decided[row]]


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("announce", [True, False])
def test_either_side_of_padding_announced_or_told_by_the_mask(tiny_model, vector, side, announce):
    chat = tiny_model("llama")
    tokens = chat.tokenise(TEXTS)
    route = Route(line(chat), flagged=Add(vector, layers=LAYER))
    ids, mask = chat.pad([t.ids for t in tokens], side=side)
    position = (mask.cumsum(1) - 1).clamp_min(0)
    with torch.no_grad(), record(chat, [LAYER]) as plain:
        chat.model(input_ids=ids, attention_mask=mask, position_ids=position)
    with torch.no_grad(), chat.edited(route), record(chat, [LAYER]) as found:
        if announce:
            with announced(Batch.of(tokens, side=side)):
                chat.model(input_ids=ids, attention_mask=mask, position_ids=position)
        else:
            chat.model(input_ids=ids, attention_mask=mask, position_ids=position)
    expected = mask.bool() & torch.tensor([[True], [False], [True]])
    assert torch.equal(moved(found[LAYER], plain[LAYER]), expected)
    np.testing.assert_allclose(route.decisions.to_frame()["score"], [1, -1, 1], atol=1e-4)


def test_positions_are_found_in_padded_rows():
    rows = [Tokens((1, 2, 3, 4, 5), 1, 3, 4), Tokens((1, 2, 3, 4, 5, 6, 7), 2, 4, 4)]
    for side, shift in (("left", np.array([2, 0])), ("right", np.array([0, 0]))):
        batch = Batch.of(rows, side=side)
        for position in ("t_inst", "t_post_inst", "post[0]", "post[1]", "mean_inst"):
            starts, ends = position_columns(batch, position)
            assert list(zip(starts - shift, ends - shift, strict=True)) == [row.span(position) for row in rows], (side, position)
    with pytest.raises(ModelError, match="1 prompts have fewer template tokens"):
        position_columns(batch, "post[2]")
    with pytest.raises(ModelError, match="announced by token ids only"):
        position_columns(Batch.of([[1, 2]], side="left"), "t_inst")


# --- generation --------------------------------------------------------------------------------------------------------


@pytest.fixture
def routed(tiny_model, vector):
    """A route that fires on half of a grid, and the rows it fires on as decided by hand."""
    chat, grid = tiny_model("qwen2"), build_grid()
    acts = capture(chat, grid, layers=[LAYER], positions=["t_inst"], progress=False)
    gate = Line().fit(gate_data(acts, LAYER, "t_inst"))
    route = Route(gate, flagged=Add(vector, 60.0, layers=LAYER, scope=REPLY), unflagged=Ablate(vector, layers=LAYER), languages=grid)
    fires = gate.predict(gate_data(acts, LAYER, "t_inst"))
    return chat, grid, route, dict(zip(grid.frame["prompt_id"], map(bool, fires), strict=True))


def test_generate_under_a_route_equals_generate_under_rows_decided_before(routed, vector):
    chat, grid, route, fires = routed
    options = {"max_new_tokens": 6, "progress": False}
    plain = generate(chat, grid, **options)["reply"]
    with chat.edited(route):
        found = generate(chat, grid, token_budget=90, **options)
    others = {name: not on for name, on in fires.items()}
    with chat.edited(Add(vector, 60.0, layers=LAYER, scope=REPLY, rows=fires), Ablate(vector, layers=LAYER, rows=others)):
        expected = generate(chat, grid, **options)
    pd.testing.assert_frame_equal(found, expected)
    assert route.decisions.rows("flagged") == fires and 0 < sum(fires.values()) < len(fires)
    changed = (found["reply"] != plain).to_numpy()
    assert changed[[fires[name] for name in found["prompt_id"]]].all()


def test_rows_that_end_early_leave_the_others_as_they_are_alone(routed):
    chat, grid, route, _ = routed
    tokens, names = chat.tokenise(grid.frame["text"].tolist()), grid.frame["prompt_id"].tolist()
    with chat.edited(route):
        free = reply_to(chat, tokens, 8, prompt_ids=names)
        letter = next(c for c in sorted(set(free[0].reply)) if c.isalpha() and not all(c in other.reply for other in free))
        stops = Stops.of(chat, [letter])
        together = reply_to(chat, tokens, 8, prompt_ids=names, stops=stops)
        alone = [reply_to(chat, [t], 8, prompt_ids=[n], stops=stops)[0] for t, n in zip(tokens, names, strict=True)]
    assert together == alone
    assert len({reply.n_new_tokens for reply in together}) > 1, "some must end before others, or the test shows nothing"


def test_bare_transformers_generation_holds_the_decision_of_its_prompt(tiny_model, vector):
    for family in FAMILIES:
        chat = tiny_model(family)
        tokens = chat.tokenise(TEXTS)
        route = Route(line(chat), flagged=Add(vector, 60.0, layers=LAYER, scope=REPLY), unflagged=Ablate(vector, layers=LAYER))
        ids, mask = chat.pad([t.ids for t in tokens], side="left")
        options = {"max_new_tokens": 5, "do_sample": False, "pad_token_id": 0, "eos_token_id": None}
        with chat.edited(route):
            bare = chat.model.generate(ids, attention_mask=mask, **options)
            with announced(Batch.of(tokens, side="left")):
                told = chat.model.generate(ids, attention_mask=mask, **options)
        by_hand = [Add(vector, 60.0, layers=LAYER, scope=REPLY, rows=[1, 0, 1]), Ablate(vector, layers=LAYER, rows=[0, 1, 0])]
        with chat.edited(*by_hand):
            expected = chat.model.generate(ids, attention_mask=mask, **options)
        assert torch.equal(bare, told) and torch.equal(bare, expected), family


def test_one_decision_is_made_per_reply_with_and_without_a_cache_and_a_new_one_when_prompts_are_read_again(tiny_model, vector):
    chat, asked = tiny_model("llama"), []
    tokens = chat.tokenise(TEXTS)
    gate = line(chat)
    score = gate._score
    object.__setattr__(gate, "_score", lambda X, language: asked.append(len(X)) or score(X, language))
    ids, mask = chat.pad([t.ids for t in tokens], side="left")
    route, batch = Route(gate, flagged=Add(vector, layers=LAYER)), Batch.of(tokens, side="left")
    away = Add(gate.weight_, -2.0 / np.linalg.norm(gate.weight_), layers=LAYER)
    with chat.edited(route), announced(batch):
        for cache in (True, False):
            chat.model.generate(ids, attention_mask=mask, max_new_tokens=4, do_sample=False, use_cache=cache, pad_token_id=0, eos_token_id=None)
            assert asked == [3]
            asked.clear()
        assert [d.decision for d in route.decisions] == ["flagged", "unflagged", "flagged"]
        with chat.edited(away):  # the inner one acts first
            chat.model(input_ids=ids, attention_mask=mask)
        assert [d.decision for d in route.decisions] == ["unflagged"] * 3


def test_two_generations_taken_in_turns_keep_their_own_decisions(tiny_model, vector):
    chat = tiny_model("llama")
    tokens = chat.tokenise(TEXTS[:2])
    route = Route(line(chat), flagged=Add(vector, 5.0, layers=LAYER, scope="decode"))
    step = torch.tensor([[7]])
    with torch.no_grad():
        caches = {}
        with chat.edited(route):
            for name, one in zip("ab", tokens, strict=True):  # the model makes these caches itself
                caches[name] = chat.model(input_ids=torch.tensor([one.ids]), use_cache=True).past_key_values
            found = {name: chat.model(input_ids=step, past_key_values=cache, use_cache=True).logits for name, cache in caches.items()}
        plain = {}
        for name, one in zip("ab", tokens, strict=True):
            cache = chat.model(input_ids=torch.tensor([one.ids]), use_cache=True).past_key_values
            plain[name] = chat.model(input_ids=step, past_key_values=cache, use_cache=True).logits
    assert not torch.equal(found["a"], plain["a"]) and torch.equal(found["b"], plain["b"])


def test_a_cache_the_gate_has_not_seen_filled_and_other_rows_are_refused(tiny_model, vector):
    chat = tiny_model("llama")
    route = Route(line(chat), flagged=Add(vector, layers=LAYER, scope="decode"))
    ids = torch.tensor([[5, 6, 7]])
    with torch.no_grad():
        cache = chat.model(input_ids=ids, use_cache=True).past_key_values
        with chat.edited(route), pytest.raises(DataError, match="goes on from 3 cached tokens, and the gate has seen none of its prompts"):
            chat.model(input_ids=ids[:, :1], past_key_values=cache)
        with chat.edited(route):
            cache = chat.model(input_ids=ids, use_cache=True).past_key_values
            cache.batch_repeat_interleave(2)
            with pytest.raises(DataError, match="no beams or expanded rows"):
                chat.model(input_ids=torch.tensor([[5], [5]]), past_key_values=cache)
    tokens = chat.tokenise(TEXTS)
    padded, mask = chat.pad([t.ids for t in tokens], side="left")
    with chat.edited(route), announced(Batch.of(tokens, side="left")), pytest.raises(ModelError, match=r"no beams or several replies per prompt"):
        chat.model.generate(padded, attention_mask=mask, max_new_tokens=3, num_beams=2, do_sample=False, pad_token_id=0)


def test_a_prompt_read_in_pieces_is_decided_where_its_token_comes(tiny_model, vector):
    chat = tiny_model("llama")
    tokens = chat.tokenise(TEXTS)
    ids, mask = chat.pad([t.ids for t in tokens], side="left")
    position = (mask.cumsum(1) - 1).clamp_min(0)

    def logits(route, cuts):
        cache, start = None, 0
        with torch.no_grad(), chat.edited(route), announced(Batch.of(tokens, side="left", prompt_ids=NAMES)):
            for end in (*cuts, ids.shape[1]):
                places = {"attention_mask": mask[:, :end], "position_ids": position[:, start:end]}
                step = chat.model(input_ids=ids[:, start:end], past_key_values=cache, use_cache=True, **places)
                cache, start = step.past_key_values, end
        return step.logits[:, -1]

    for at in ("t_post_inst", "t_inst"):
        route = Route(line(chat, position=at), flagged=Add(vector, 3.0, layers=LAYER, scope="last_prompt"))
        whole = logits(route, ())
        decided = route.decisions.rows("flagged")
        for cut in range(8, ids.shape[1], 5):
            torch.testing.assert_close(logits(route, (cut,)), whole, atol=2e-5, rtol=2e-5)
            assert route.decisions.rows("flagged") == decided == {"a": True, "b": False, "c": True}
    with pytest.raises(DataError, match=r"3 of 3 rows are not decided yet: the prompt is read in pieces"):
        logits(Route(line(chat), flagged=Add(vector, layers=LAYER)), (8,))
    averaged = Route(line(chat, position="mean_inst"), flagged=Add(vector, layers=LAYER, scope="last_prompt"))
    with pytest.raises(DataError, match="in pieces that cut it"):
        logits(averaged, (ids.shape[1] - tokens[0].n_post - 1,))


def test_next_logits_and_capture_read_under_the_route(routed):
    chat, grid, route, fires = routed
    tokens, names = chat.tokenise(grid.frame["text"].tolist()), grid.frame["prompt_id"].tolist()
    plain, found = {}, {}
    for kept, edits in ((plain, []), (found, [route])):
        with chat.edited(*edits):
            for rows, logits in next_logits(chat, tokens, names, token_budget=80):
                kept |= dict(zip(rows.tolist(), logits, strict=True))
    assert route.decisions.rows("flagged") == fires
    assert all(not torch.equal(plain[i], found[i]) for i in plain)
    with chat.edited(route):
        acts = capture(chat, grid, layers=[LAYER], positions=["t_inst"], token_budget=60, shard_size=5, progress=False)
    assert route.decisions.rows("flagged") == fires
    assert gate_name(route.gate) in acts.attrs["edits"]


# --- languages and the band --------------------------------------------------------------------------------------------


@pytest.fixture
def strict_in_french(tiny_model):
    """A gate whose French threshold lies above every score."""
    gate = line(tiny_model("llama"), languages=["en", "fr", "en"])
    gate.thresholds_ = {"en": 0.0, "fr": 5.0}
    gate.fallback_ = -5.0
    return gate


@pytest.mark.parametrize(
    ("languages", "expected"),
    [
        ({"a": "en", "b": "en", "c": "fr"}, [True, False, False]),
        (pd.DataFrame({"prompt_id": NAMES, "language": ["fr", "fr", "en"]}), [False, False, True]),
        (pd.Series({"a": "eng", "b": "unknown", "c": "fra_Latn"}), [True, True, False]),
        ("unknown", [True, True, True]),
        ("fr", [False, False, False]),
        (lambda text: "fr" if "bread" in text else "en" if "rivers" in text else None, [True, False, True]),
    ],
    ids=["mapping", "table", "other spellings", "unknown", "one tag", "detected"],
)
def test_the_threshold_is_that_of_each_prompts_language(tiny_model, vector, strict_in_french, languages, expected):
    chat = tiny_model("llama")
    route = Route(strict_in_french, flagged=Add(vector, layers=LAYER), languages=languages)
    tokens = chat.tokenise(TEXTS)
    where = {"layers": [LAYER], "positions": ["t_inst"], "prompt_ids": NAMES}
    plain = chat.states(tokens, **where)
    with chat.edited(route):
        assert moved(chat.states(tokens, **where), plain).flatten().tolist() == expected
    frame = route.decisions.to_frame()
    assert frame["threshold"].tolist() == [{"en": 0.0, "fr": 5.0, "unknown": -5.0}[tag] for tag in frame["language"]]
    assert ((frame["score"] >= frame["threshold"]) == (frame["decision"] == "flagged")).all()


def test_a_detector_is_handed_the_users_text_on_either_side_of_padding(tiny_model, vector, strict_in_french):
    chat, heard = tiny_model("llama"), []
    route = Route(strict_in_french, languages=lambda text: heard.append(text) or "en")
    tokens = chat.tokenise(TEXTS)
    with chat.edited(route):
        chat.states(tokens, layers=[LAYER], positions=["t_inst"])
        reply_to(chat, tokens, 2)
    assert [text.strip() for text in heard] == TEXTS * 2
    with chat.edited(route), pytest.raises(ModelError, match="does not say where that is"):
        chat.model(input_ids=torch.tensor([tokens[0].ids]))
    with chat.edited(Route(strict_in_french, languages=lambda text: 7)), pytest.raises(DataError, match="detector answered int"):
        chat.states(tokens, layers=[LAYER], positions=["t_inst"])


def test_a_language_without_a_threshold_is_refused_unless_a_fallback_is_named(tiny_model, vector, strict_in_french):
    chat = tiny_model("llama")
    tokens = chat.tokenise(TEXTS)
    with pytest.raises(DataError, match=r"no threshold for language 'sw'; it knows en, fr\. Recalibrate"):
        Route(strict_in_french, languages="sw")
    with pytest.raises(DataError, match="no threshold for language 'sw'"):
        Route(strict_in_french, languages={"a": "en", "b": "sw"})
    detected = Route(strict_in_french, languages=lambda text: "sw")
    with chat.edited(detected), pytest.raises(DataError, match="no threshold for language 'sw'"):
        chat.states(tokens, layers=[LAYER], positions=["t_inst"])
    for fallback, expected in (("gate", [-5.0] * 3), (0.25, [0.25] * 3)):
        route = Route(strict_in_french, languages="sw", fallback=fallback)
        read(chat, route, tokens)
        frame = route.decisions.to_frame()
        assert frame["threshold"].tolist() == expected and set(frame["language"]) == {"unknown"}
    number = Route(strict_in_french, languages="unknown", fallback=0.25)
    read(chat, number, tokens)
    assert set(number.decisions.to_frame()["threshold"]) == {0.25}


def test_a_gate_whose_thresholds_differ_asks_for_languages(tiny_model, strict_in_french):
    with pytest.raises(DataError, match=r"thresholds differ between en, fr, and languages= says nothing"):
        Route(strict_in_french)
    Route(line(tiny_model("llama")))
    assert UNKNOWN == GATES_UNKNOWN


def test_prompts_without_a_declared_language_are_named(tiny_model, strict_in_french):
    chat = tiny_model("llama")
    route = Route(strict_in_french, languages={"a": "en", "b": "fr"})
    tokens = chat.tokenise(TEXTS)
    with chat.edited(route):
        with pytest.raises(DataError, match=r"says nothing about 1 prompts of this batch: c\."):
            chat.states(tokens, layers=[LAYER], positions=["t_inst"], prompt_ids=NAMES)
        with pytest.raises(DataError, match="does not say which prompts it has"):
            chat.states(tokens, layers=[LAYER], positions=["t_inst"])


def test_scores_inside_the_band_are_unsure_and_take_the_third_edit(stepper, vector, strict_in_french):
    steps = stepper("llama")
    edits = {name: Add(vector, size, "raw", layers=LAYER) for name, size in (("flagged", 1.0), ("unflagged", 2.0), ("unsure", 3.0))}
    languages = {"a": "en", "b": "en", "c": "fr"}  # scores above the thresholds: 1, -1 and -4
    plain, _ = steps.run(cache=True)
    for band, expected in (
        (None, [1, 2, 2]),
        ((-2, 0), [1, 3, 2]),
        ((0, 2), [3, 2, 2]),
        ((-2, 2), [3, 3, 2]),
        ((-5, 0.5), [1, 3, 3]),
    ):
        some = edits if band else {name: edits[name] for name in ("flagged", "unflagged")}
        route = Route(strict_in_french, band=band, languages=languages, **some)
        found, _ = steps.run(route, cache=True)
        size = torch.tensor(expected).view(-1, 1, 1) * steps.region("all").unsqueeze(-1)
        torch.testing.assert_close(found - plain, size * torch.from_numpy(vector).float(), atol=2e-5, rtol=1e-5)
        decided = {1: "flagged", 2: "unflagged", 3: "unsure"}
        assert [d.decision for d in route.decisions] == [decided[n] for n in expected]


@settings(deadline=None, max_examples=60)
@given(
    st.lists(st.tuples(st.floats(-10, 10), st.floats(-10, 10)), min_size=1, max_size=20),
    st.floats(-5, 0),
    st.floats(0, 5),
)
def test_outcomes_are_one_of_three_and_without_a_band_what_predict_says(pairs, low, high):
    score, threshold = map(np.array, zip(*pairs, strict=True))
    assert np.array_equal(outcomes(score, threshold, (0.0, 0.0)) == OUTCOMES.index("flagged"), score >= threshold)
    three = outcomes(score, threshold, (low, high))
    assert np.array_equal(three == 2, score - threshold >= high) and np.array_equal(three == 0, score - threshold < low)
    assert (outcomes(score, np.full(len(score), np.nan), (low, high)) == OUTCOMES.index("unsure")).all()


# --- the record --------------------------------------------------------------------------------------------------------


def test_decisions_are_those_of_the_last_run_by_prompt(tiny_model, vector):
    chat = tiny_model("llama")
    tokens = chat.tokenise(TEXTS)
    route = Route(line(chat), flagged=Add(vector, layers=LAYER))
    with pytest.raises(DataError, match="has not run in this thread"):
        _ = route.decisions
    where = {"layers": [LAYER], "positions": ["t_inst"]}
    with chat.edited(route):
        for one, name in zip(tokens, NAMES, strict=True):
            chat.states([one], prompt_ids=[name], **where)
        chat.states(tokens[:1], prompt_ids=["a"], **where)
    assert [(d.prompt_id, d.decision) for d in route.decisions] == [("a", "flagged"), ("b", "unflagged"), ("c", "flagged")]
    assert route.decisions["b"].language == "unknown" and route.decisions.rows("unsure", "unflagged") == {"a": False, "b": True, "c": False}
    assert list(route.decisions.to_frame()) == ["prompt_id", "row", "language", "score", "threshold", "decision"]
    assert route.decisions.summary().loc["unknown"].to_dict() == {"flagged": 2, "unsure": 0, "unflagged": 1}
    assert "flagged" in route.decisions._repr_html_()
    with pytest.raises(DataError, match="Nothing was decided about 'd'"):
        _ = route.decisions["d"]
    with pytest.raises(DataError, match="Did you mean 'flagged'"):
        route.decisions.rows("flaged")
    with chat.edited(route):
        chat.states(tokens, **where)
        chat.states(tokens[1:], **where)
    assert [(d.prompt_id, d.row, d.decision) for d in route.decisions] == [(None, 0, "unflagged"), (None, 1, "flagged")]
    with pytest.raises(DataError, match="2 rows were decided without a prompt id"):
        route.decisions.rows("flagged")


def test_a_route_without_edits_only_records(tiny_model, stepper):
    chat, steps = tiny_model("llama"), stepper("llama")
    watch = Route(line(chat))
    assert torch.equal(steps.run(watch, cache=True)[1], steps.run(cache=True)[1])
    assert watch.decisions.rows("flagged") == {"a": True, "b": False, "c": True}


def test_threads_and_tasks_keep_their_gates_and_records_apart(tiny_model, vector):
    chat = tiny_model("llama")
    tokens = chat.tokenise(TEXTS)
    settings_ = {"first": (True, False, False), "last": (False, False, True), "none": (False, True, False)}
    routes = {name: Route(line(chat, harmful), flagged=Add(vector, 5.0, layers=LAYER)) for name, harmful in settings_.items()}
    shared = Route(line(chat), flagged=Add(vector, 5.0, layers=LAYER))
    expected = {name: read(chat, route, tokens)[0] for name, route in routes.items()}
    wrong, barrier = [], threading.Barrier(len(routes))

    def work(name):
        barrier.wait()
        for turn in range(6):
            found, decided = read(chat, routes[name], tokens)
            if not torch.equal(found, expected[name]) or [d == "flagged" for d in decided] != list(settings_[name]):
                wrong.append(name)
            part = tokens[: 1 + turn % 3]  # one route in several threads: each has its own record
            if len(read(chat, shared, part)[1]) != len(part):
                wrong.append("shared")

    threads = [threading.Thread(target=work, args=(name,)) for name in routes]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
    with pytest.raises(DataError, match="has not run"):
        _ = shared.decisions

    async def task(row):
        with chat.edited(shared):
            await asyncio.sleep(0)
            chat.states([tokens[row]], layers=[LAYER], positions=["t_inst"], prompt_ids=[NAMES[row]])
            await asyncio.sleep(0)
            return shared.decisions.rows("flagged")

    async def all_tasks():
        return await asyncio.gather(*(task(row) for row in range(3)))

    assert asyncio.run(all_tasks()) == [{"a": True}, {"b": False}, {"c": True}]


def test_entering_the_same_route_again_inside_itself_acts_twice(tiny_model, vector):
    chat = tiny_model("llama")
    tokens = chat.tokenise(TEXTS)
    gate = line(chat)
    sideways = vector - (vector @ gate.weight_) / (gate.weight_ @ gate.weight_) * gate.weight_  # leaves the score alone
    route = Route(gate, flagged=Add(sideways, 2.0, layers=LAYER))
    plain = chat.states(tokens, layers=[LAYER], positions=["t_inst"])
    once, _ = read(chat, route, tokens, positions=["t_inst"])
    with chat.edited(route):
        twice, _ = read(chat, route, tokens, positions=["t_inst"])
    torch.testing.assert_close(twice[:, :1] - plain, 2 * (once[:, :1] - plain), atol=1e-5, rtol=1e-5)


def test_nothing_is_kept_of_batches_and_routes_that_are_gone(tiny_model, vector):
    chat = tiny_model("llama")
    tokens = chat.tokenise(TEXTS)
    route = Route(line(chat), flagged=Add(vector, layers=LAYER))
    placed = route.placed(chat)
    reading = placed[0][1]
    with edited(chat, {where: [act for at, act in placed if at == where] for where, _ in placed}):
        for _ in range(2):
            chat.states(tokens, layers=[LAYER], positions=["t_inst"])
            chat.model(input_ids=torch.tensor([tokens[0].ids]), use_cache=True)
            gc.collect()
            assert len(reading._held) <= 1
    for _ in range(40):
        reading._new(type("Bare", (), {"n_prompts": 1, "batch": None, "cache": None})())
    assert len(reading._without_cache) <= 16


# --- names -------------------------------------------------------------------------------------------------------------


def test_replies_of_another_gate_language_or_band_are_refused(routed, tmp_path, vector):
    chat, grid, route, _ = routed
    out = tmp_path / "replies.jsonl"
    options = {"max_new_tokens": 2, "progress": False, "out": out}
    with chat.edited(route):
        generate(chat, grid, **options)
        generate(chat, grid, **options)  # the same gate reads them back
    other, moved_threshold = copy.deepcopy(route.gate), copy.deepcopy(route.gate)
    other.weight_ = 1.001 * other.weight_
    moved_threshold.thresholds_ = {**moved_threshold.thresholds_, "fr": 0.125}
    for changed in (
        dataclasses.replace(route, gate=other),
        dataclasses.replace(route, gate=moved_threshold),
        dataclasses.replace(route, languages="unknown"),
        dataclasses.replace(route, band=(-0.5, 0.5)),
        dataclasses.replace(route, fallback="gate"),
        dataclasses.replace(route, flagged=None),
    ):
        with chat.edited(changed), pytest.raises(StoreMismatchError):
            generate(chat, grid, **options)
    with pytest.raises(StoreMismatchError):
        generate(chat, grid, **options)


def test_the_names_say_the_gate_where_it_reads_and_who_is_edited(tiny_model, vector):
    chat = tiny_model("llama")
    gate = line(chat, layer=0)
    with chat.edited(Route(gate, flagged=Ablate(vector), unflagged=Add(vector, layers=[1, 3]), band=(-1, 1))):
        told = edits_of(chat)
    sign = gate_name(gate).split(" ")[1]
    assert told[0] == f"layer 0: Route(Line {sign} at t_post_inst@0, languages unknown, band -1.0 to 1.0)"
    assert [name.split("(")[0] for name in told[1:]] == [
        f"everywhere: if flagged by {sign}: Ablate",
        f"layer 1: if unflagged by {sign}: Add",
        f"layer 3: if unflagged by {sign}: Add",
    ]


def test_a_gates_name_survives_its_file_and_changes_with_what_decides(tiny_model, tmp_path):
    gate = line(tiny_model("llama"))
    again = load_gate(save_gate(gate, tmp_path / "gate.safetensors"), classes=[Line])
    assert gate_name(again) == gate_name(gate)
    for name, value in (("weight_", gate.weight_ + 1e-9), ("offset_", 0.0), ("thresholds_", {"en": 0.1}), ("fallback_", 0.2), ("place_", None)):
        other = copy.deepcopy(gate)
        setattr(other, name, value)
        assert gate_name(other) != gate_name(gate), name


# --- what cannot be ----------------------------------------------------------------------------------------------------


def test_no_hook_outlives_an_exception_and_the_model_is_as_before(tiny_model, vector):
    chat = tiny_model("gemma2")
    tokens = chat.tokenise(TEXTS)
    plain = chat.states(tokens, layers=[4], positions=["t_inst"])
    route = Route(line(chat), flagged=Add(vector, layers=LAYER), unflagged=Ablate(vector, layers=[LAYER, "blocks.3.hook_attn_out"]))
    with pytest.raises(KeyboardInterrupt), chat.edited(route):
        chat.states(tokens, layers=[4], positions=["t_inst"])
        raise KeyboardInterrupt
    broken = Route(line(chat), flagged=Add(vector, layers=LAYER))
    object.__setattr__(broken.gate, "weight_", np.ones(3))
    with pytest.raises(ValueError, match="matmul"), chat.edited(broken):
        chat.states(tokens, layers=[4], positions=["t_inst"])
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in chat.model.modules())
    assert edits_of(chat) == [] and current_pass() is None
    assert torch.equal(chat.states(tokens, layers=[4], positions=["t_inst"]), plain)
    assert read(chat, route, tokens)[1] == ["flagged", "unflagged", "flagged"]


def test_states_and_scores_that_are_not_finite_are_refused_by_prompt(tiny_model, tiny_tokenizer, vector):
    chat = load_model(build_model("llama", vocab_size=len(tiny_tokenizer)), tokenizer=tiny_tokenizer)
    gate = line(chat)
    tokens = chat.tokenise(TEXTS)
    route = Route(gate, flagged=Add(vector, layers=LAYER))
    only = next(token for token in tokens[1].ids if token not in tokens[0].ids + tokens[2].ids)
    spoilt = {1: lambda residual: torch.where(current_ids() == only, float("nan"), residual)}

    def current_ids():
        return current_pass().ids.unsqueeze(-1)

    with chat.edited(route, spoilt), pytest.raises(ModelCheckError, match=r"states of prompts b are NaN or infinite"):
        chat.states(tokens, layers=[LAYER], positions=["t_inst"], prompt_ids=NAMES)
    gate.offset_ = float("inf")
    with chat.edited(route), pytest.raises(ModelCheckError, match=r"scores of prompts row 0, row 1, row 2 are"):
        chat.states(tokens, layers=[LAYER], positions=["t_inst"])


@pytest.mark.parametrize(
    ("edit", "told"),
    [
        (lambda v: Add(v, layers=1), "at layer 1, and the gate decides at layer 2"),
        (lambda v: [Add(v, layers=3), Ablate(v, layers=[0, 3])], "at layer 0"),
        (lambda v: Ablate(v), "everywhere, which begins at the embedding"),
        (lambda v: Patch(1.0, along=v, layers="blocks.1.hook_mlp_out"), r"at blocks\.1\.hook_mlp_out"),
    ],
)
def test_edits_of_what_has_gone_by_are_refused_with_the_remedy(tiny_model, vector, edit, told):
    chat = tiny_model("llama")
    route = Route(line(chat), unflagged=edit(vector))
    with pytest.raises(DataError, match=rf"{told}.*rows=route\.decisions\.rows\('unflagged'\)"), chat.edited(route):
        pass
    assert not any(module._forward_hooks for module in chat.model.modules())


def test_the_remedy_for_earlier_layers_works(tiny_model, stepper, vector):
    chat, steps = tiny_model("llama"), stepper("llama")
    watch = Route(line(chat))
    steps.run(watch, cache=True)
    plain, _ = steps.run(cache=True)
    found, _ = steps.run(Ablate(vector, rows=watch.decisions.rows("unflagged")), cache=True)
    assert moved(found, plain).any(dim=1).tolist() == [False, True, False]


def test_a_gate_of_another_model_template_or_width_is_refused_with_both_fingerprints(tiny_model, vector):
    chat, other = tiny_model("llama"), tiny_model("llama", seed=1)
    gate = line(chat)
    message = rf"fingerprint '{chat.fingerprint}' and not '{other.fingerprint}'.*any_model=True"
    with pytest.raises(ModelError, match=message), other.edited(Route(gate)):
        pass
    with other.edited(Route(gate, any_model=True)):
        assert len(edits_of(other)) == 1
    asked = dataclasses.replace(chat, system="Answer briefly.")
    with pytest.raises(ModelError, match="it expects system"), asked.edited(Route(gate)):
        pass
    narrow = tiny_model("llama", hidden_size=16)
    with pytest.raises(ModelError, match=r"states of width 32; the residual stream of .* is 16 wide"), narrow.edited(Route(gate)):
        pass
    with pytest.raises(DataError, match="it expects layer 2 and not 3"), chat.edited(Route(gate, place=place_of(chat, 3))):
        pass
    deep = line(chat)
    deep.place_ = Place(9, "t_inst")
    with pytest.raises(ModelError, match="no layer 9"), chat.edited(Route(deep)):
        pass


def test_a_gate_fitted_on_a_plain_array_is_told_its_place(tiny_model):
    chat = tiny_model("llama")
    gate = Line().fit(states_of(chat, chat.tokenise(TEXTS), LAYER, "t_inst"), np.array([True, False, True]))
    with pytest.raises(DataError, match=r"does not say where it reads\. Expected place=Place"), chat.edited(Route(gate)):
        pass
    assert read(chat, Route(gate, place=Place(LAYER, "t_inst")), chat.tokenise(TEXTS))[1] == ["flagged", "unflagged", "flagged"]


def test_positions_inside_the_prompt_need_an_announced_pass(tiny_model):
    chat = tiny_model("llama")
    for position in ("t_inst", "post[0]"):
        with chat.edited(Route(line(chat, position=position))), pytest.raises(ModelError, match=r"not announced with token spans"):
            chat.model(input_ids=torch.tensor([chat.tokenise(TEXTS)[0].ids]))


def test_a_block_called_by_itself_decides_nothing(tiny_model, vector):
    chat = tiny_model("llama")
    (_, reading), (_, act) = Route(line(chat), flagged=Add(vector, layers=LAYER)).placed(chat)
    for one in (reading, act):
        with pytest.raises(DataError, match="a block was called by itself"):
            one(torch.zeros(1, 2, 32), None)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"band": (0.1, 0.5)}, r"low <= 0 <= high"),
        ({"band": (-1, float("inf"))}, r"low <= 0 <= high"),
        ({"band": 0.5}, r"expected \(low, high\)"),
        ({"unsure": Add(np.ones(32), layers=LAYER)}, r"without a band no prompt is unsure"),
        ({"languages": 7}, "languages is int"),
        ({"languages": {}}, "languages is empty"),
        ({"languages": pd.DataFrame({"language": ["en"]})}, "a table without prompt_id"),
        ({"fallback": "own"}, "expected None, 'gate'"),
        ({"fallback": float("nan")}, "expected None, 'gate'"),
    ],
)
def test_routes_that_mean_nothing_are_refused_when_made(tiny_model, options, message):
    with pytest.raises(DataError, match=message):
        Route(line(tiny_model("llama")), **options)


def test_what_is_no_fitted_gate_or_no_edit_of_rows_is_refused(tiny_model, vector):
    chat = tiny_model("llama")
    with pytest.raises(DataError, match="ndarray is no gate"):
        Route(vector)
    with pytest.raises(DataError, match="Line is not fitted"):
        Route(Line())
    for edit in ({LAYER: lambda residual: residual + 1}, Route(line(chat))):
        with pytest.raises(DataError, match="which knows no rows"), chat.edited(Route(line(chat), flagged=edit)):
            pass
    with pytest.raises(DataError, match="cannot be moved"), chat.edited({LAYER: Route(line(chat))}):
        pass


# --- what the engine tells ---------------------------------------------------------------------------------------------


def test_a_pass_knows_its_token_ids_and_the_cache_it_fills_without_holding_it(tiny_model, vector):
    chat, seen = tiny_model("llama"), []
    ids = torch.tensor([[5, 6, 7]])
    with torch.no_grad(), chat.edited(Add(vector, layers=1, scope="last_prompt"), {LAYER: lambda residual: seen.append(current_pass()) or residual}):
        cache = chat.model(input_ids=ids, use_cache=True).past_key_values
        chat.model(input_ids=ids[:, :1], past_key_values=cache, use_cache=True)
        chat.model(inputs_embeds=torch.zeros(1, 2, 32), use_cache=False)
    assert torch.equal(seen[0].ids, ids) and seen[2].ids is None
    assert seen[0].cache is cache and seen[1].cache is cache and seen[2].cache is None
    del cache
    gc.collect()
    assert seen[0].cache is None


# --- the organism ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def organism():
    """The organism, prompts of a high- and a low-resource language, their states, and a gate with a threshold of its own for the second."""
    chat, grid = load_model("organism:aligned"), load_prompts("organism")
    ids = grid.frame.groupby(["language", "harmful"])["meaning_id"].unique().map(lambda m: list(m[:6])).explode().unique()
    small = grid.select(meanings=list(ids), languages=["qaa", "qad"])
    acts = capture(chat, small, layers=[4], positions=["t_inst"], progress=False)
    data = gate_data(acts, 4, "t_inst")
    gate = DirectionGate().fit(data.select(languages="qaa")).recalibrate(data.draw(4, "qad", np.random.default_rng(0)))
    return chat, small, acts, data, gate


def test_on_the_organism_the_gate_decides_in_generation_as_it_does_on_captured_states(organism):
    chat, grid, acts, data, gate = organism
    route = Route.along(gate, harm_direction(acts, ["qaa"], split=None).at(4, "t_inst"), languages=grid)
    with chat.edited(route):
        generate(chat, grid, max_new_tokens=3, progress=False, token_budget=300)
    fires = dict(zip(data.prompt_id.tolist(), gate.predict(data).tolist(), strict=True))
    assert route.decisions.rows("flagged") == fires and 0 < sum(fires.values()) < len(fires)
    assert PromptLanguages.of(grid).declared == dict(zip(data.prompt_id, data.language, strict=True))


@pytest.mark.slow
def test_the_example_serves_a_saved_gate_line_by_line(organism, tmp_path):
    chat, grid, acts, _, gate = organism
    save_gate(gate, tmp_path / "gate.safetensors")
    direction = harm_direction(acts, ["qaa"], split=None).at(4, "t_inst")
    direction.save(tmp_path / "direction.safetensors")
    some = grid.frame.groupby(["language", "harmful"], sort=False).head(1)
    lines = [f"{tag}\t{text}" for tag, text in zip(some["language"], some["text"], strict=True)]
    command = [sys.executable, str(EXAMPLE), "organism:aligned", "--max-new-tokens", "4"]
    command += ["--gate", str(tmp_path / "gate.safetensors"), "--direction", str(tmp_path / "direction.safetensors")]
    told = "\n".join([*lines, "", some["text"].iloc[0], f"qah\t{some['text'].iloc[0]}"]) + "\n"
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "PYTHONPATH": str(EXAMPLE.parents[1])}
    run = subprocess.run(command, input=told, capture_output=True, text=True, encoding="utf-8", timeout=240, env=environment)
    assert run.returncode == 0, run.stderr[-2000:]
    found = [json.loads(line) for line in run.stdout.splitlines()]
    route = Route.along(gate, direction, languages=grid)
    with chat.edited(route):
        replies = generate(chat, PromptGrid(some), max_new_tokens=4, progress=False).set_index("prompt_id")["reply"]
    for prompt_id, answer in zip(some["prompt_id"], found[: len(lines)], strict=True):
        expected = route.decisions[prompt_id]
        assert (answer["decision"], answer["language"], answer["threshold"]) == (expected.decision, expected.language, expected.threshold)
        assert answer["score"] == pytest.approx(expected.score, rel=1e-4) and answer["reply"] == replies[prompt_id]
    assert [answer["language"] for answer in found[len(lines) :]] == ["unknown", "unknown"]
    assert {answer["threshold"] for answer in found[len(lines) :]} == {gate.fallback_}
