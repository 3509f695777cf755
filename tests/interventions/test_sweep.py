"""The sweep over candidate directions: against one prompt at a time, on a model whose refusal was built in, and cut off half-way."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest
import torch

from tests.tiny import build_grid, build_model
from workbench.activations.capture import capture
from workbench.directions import harm_direction
from workbench.directions.direction import Directions, labelled
from workbench.directions.select import SelectionRule, criteria_agreement, select_direction
from workbench.errors import DataError, ModelError, StoreError, StoreMismatchError
from workbench.interventions import Ablate, Add, RefusalTokens
from workbench.interventions import sweep as sweep_module
from workbench.interventions.sweep import sweep_directions
from workbench.models import load_model
from workbench.prompts import PromptGrid, load_prompts

REFUSES = 300
BUILT = 2
EVERYTHING = SelectionRule(kl_max=None, induce_min=None, depth=None)


def grid_of(n=24, languages=("en", "fr")) -> PromptGrid:
    """Made-up requests: those labelled harmful speak of bread, the others of rivers."""
    words = ["home", "three", "tell", "Name", "there", "longest", "Hello", "moi"]
    rows = [
        {
            "prompt_id": f"{tag}-{m}",
            "meaning_id": f"m{m}",
            "language": tag,
            "text": f"{words[m % 8]} {tag} {'bread bake bread' if m % 2 else 'rivers of rivers'} {words[(m * 3 + 1) % 7]}" + " me" * (m % 3),
            "harmful": bool(m % 2),
            "split": ("fit", "select")[m // 2 % 2],
        }
        for tag in languages
        for m in range(n)
    ]
    return PromptGrid(pd.DataFrame(rows))


@pytest.fixture(scope="module")
def refuser(tiny_tokenizer, tmp_path_factory):
    """A tiny Llama that says one token for what its layer 2 holds along the class difference there; blocks 3 and 4 do nothing."""
    model, grid = build_model("llama", vocab_size=len(tiny_tokenizer), seed=1), grid_of()
    for block in model.model.layers[BUILT:]:
        block.self_attn.o_proj.weight.zero_()
        block.mlp.down_proj.weight.zero_()
    chat = load_model(model, tokenizer=tiny_tokenizer)
    acts = capture(chat, grid, store=tmp_path_factory.mktemp("refuser") / "a.zarr", positions=("t_post_inst",), progress=False)
    unit = harm_direction(acts, ["en", "fr"]).at(BUILT, "t_post_inst").unit
    states = acts["residual"].sel(layer=BUILT, position="t_post_inst").values.astype(np.float64)
    states /= np.sqrt((states**2).mean(axis=1, keepdims=True))
    harmful = acts["harmful"].values
    high, low = ((states @ unit)[harmful == label].mean() for label in (True, False))
    rest = states.mean(axis=0) - (states.mean(axis=0) @ unit) * unit
    others = torch.logsumexp(torch.from_numpy(states) @ model.lm_head.weight.double().T, dim=1).mean().item()
    slope = 10 / (high - low)
    row = slope * unit + (others - slope * (high + low) / 2) * rest / (states @ rest).mean()
    model.lm_head.weight[REFUSES] = torch.from_numpy(row).float()
    chat = load_model(model, tokenizer=tiny_tokenizer)
    acts = capture(chat, grid, store=tmp_path_factory.mktemp("refuser") / "b.zarr", positions=("t_inst", "t_post_inst"), progress=False)
    directions = harm_direction(acts, ["en", "fr"])
    return chat, grid, directions, RefusalTokens.given(chat, {"en": [REFUSES], "fr": [REFUSES]})


@pytest.fixture(scope="module")
def swept(refuser):
    chat, grid, directions, tokens = refuser
    return sweep_directions(chat, grid, directions, tokens=tokens, n=None, progress=False)


def alone(chat, text, *edits):
    """Next-token logits of one prompt by itself, through transformers' own call."""
    ids = torch.tensor([chat.tokenise([text])[0].ids])
    with torch.no_grad(), chat.edited(*edits):
        return chat.model(input_ids=ids, attention_mask=torch.ones_like(ids)).logits[0, -1].double()


def test_each_score_is_what_one_prompt_at_a_time_gives(refuser, swept):
    chat, grid, directions, _ = refuser
    rows = grid.frame[grid.frame["split"] == "select"]

    def odds(text, *edits):
        p = alone(chat, text, *edits).softmax(0)[REFUSES]
        return float(torch.log(p + 1e-8) - torch.log(1 - p + 1e-8))

    plain = rows.assign(score=[odds(text) for text in rows["text"]])
    harmful, harmless = plain[plain["harmful"] & (plain["score"] > 0)], plain[~plain["harmful"] & (plain["score"] < 0)]
    for position, layer in (("t_inst", 1), ("t_post_inst", 3)):
        one = directions.at(layer, position)
        found = swept.of().set_index(["position", "layer"]).loc[(position, layer)]
        assert (found["n_harmful"], found["n_harmless"]) == (len(harmful), len(harmless))
        assert found["bypass"] == pytest.approx(np.mean([odds(text, Ablate(one)) for text in harmful["text"]]), abs=1e-4)
        assert found["induce"] == pytest.approx(np.mean([odds(text, Add(one, 1.0, "raw")) for text in harmless["text"]]), abs=1e-4)
        moved = []
        for text in harmless["text"]:
            p, q = alone(chat, text).softmax(0), alone(chat, text, Ablate(one)).softmax(0)
            moved.append(float((p * (torch.log(p + 1e-6) - torch.log(q + 1e-6))).sum()))
        assert found["kl"] == pytest.approx(np.mean(moved), abs=1e-5)


def test_the_direction_that_was_built_in_is_selected(swept):
    assert swept.provenance["without_edit"]["harmful"] > 1 > -1 > swept.provenance["without_edit"]["harmless"]
    chosen = select_direction(swept, rule=EVERYTHING)
    assert chosen.position == "t_post_inst" and chosen.layer >= BUILT
    best = chosen.survivors.iloc[0]
    assert best["bypass"] < 0.2 * swept.provenance["without_edit"]["harmful"] and best["induce"] > 0


def randoms(chat, grid, directions, rng, n=8) -> Directions:
    """The built-in candidate first, then random ones of its norm, told apart by made-up positions of its layer."""
    one = directions.at(BUILT, "t_post_inst")
    units = np.concatenate([one.unit[None], rng.normal(size=(n, len(one.unit)))])
    units /= np.linalg.norm(units, axis=1, keepdims=True)
    harmless = chat.tokenise(list(grid.select(split="fit", harmful=False).frame["text"]))
    means = chat.states(harmless, layers=[BUILT], positions=["t_post_inst"])[:, 0, 0].double().numpy().mean(axis=0) @ units.T
    names = ["t_post_inst", *(f"random {i}" for i in range(n))]
    return labelled(units[None], np.full((1, n + 1), one.norm), [BUILT], names, dict(directions.metadata), baseline=means[None])


@pytest.mark.parametrize("criterion", ["refusal_tokens", "token_free"])
def test_either_criterion_tells_the_direction_that_was_built_in_from_random_ones_of_its_norm(refuser, rng, criterion):
    chat, grid, directions, tokens = refuser
    options = dict(tokens=tokens, criterion=criterion, n=None, ablation="own_layer", baseline="harmless", progress=False)
    found = sweep_directions(chat, grid, randoms(chat, grid, directions, rng), **options)
    table, plain = found.of().set_index("position"), found.provenance["without_edit"]
    built, control = table.loc["t_post_inst"], table.drop(index="t_post_inst")
    if criterion == "token_free":
        assert plain == {"harmful": pytest.approx(1), "harmless": pytest.approx(-1)} and found.provenance["layers_read"] == [3, 4]
    assert built["bypass"] < 0.2 * plain["harmful"] < 0.8 * plain["harmful"] < control["bypass"].median()
    assert built["bypass"] < control["bypass"].min()
    assert built["induce"] > max(0.5, control["induce"].quantile(0.75)) and control["induce"].median() < 0


@pytest.mark.slow
def test_on_the_organism_both_criteria_order_the_candidates_alike(tmp_path):
    chat = load_model("organism:aligned", check=False)
    grid, tags = load_prompts("organism").limit(16), ["qaa", "qab"]
    acts = capture(chat, grid.select(languages=tags, split="fit"), store=tmp_path / "a.zarr", progress=False)
    directions, options = harm_direction(acts, tags), dict(tokens=RefusalTokens.from_grid(chat, grid), progress=False)
    by_tokens, by_states = (sweep_directions(chat, grid, directions, criterion=name, **options) for name in ("refusal_tokens", "token_free"))
    agreement = criteria_agreement(by_tokens, by_states, rule=EVERYTHING).set_index("language").loc["all"]
    assert agreement["bypass"] > 0.3 and agreement["induce"] > 0.3 and agreement["n"] >= 12
    best = select_direction(by_tokens, rule=EVERYTHING).survivors.iloc[0]
    assert best["bypass"] < by_tokens.provenance["without_edit"]["harmful"] - 0.5


def test_languages_are_scored_each_by_itself_and_together(refuser, swept):
    table = swept.table.query("position == 't_post_inst' and layer == 2").set_index("language")
    assert list(table.index) == ["all", "en", "fr"]
    for name, n in (("bypass", "n_harmful"), ("induce", "n_harmless"), ("kl", "n_harmless")):
        weighted = (table.loc[["en", "fr"], name] * table.loc[["en", "fr"], n]).sum() / table.loc["all", n]
        assert table.loc["all", name] == pytest.approx(weighted)
        assert table.loc["all", f"{name}_low"] < table.loc["all", name] < table.loc["all", f"{name}_high"]


def test_a_zero_direction_gets_a_reason_and_an_edit_that_overflows_too(refuser):
    chat, grid, directions, tokens = refuser
    norm = directions.norm.copy()
    norm.loc[{"layer": 3, "position": "t_post_inst"}] = 1e38
    huge = Directions(directions.unit, norm, directions.metadata)
    rows = sweep_directions(chat, grid, huge, tokens=tokens, progress=False).of().set_index(["position", "layer"])
    assert rows.loc[("t_post_inst", 0), "reason"] == "the direction is zero" and np.isnan(rows.loc[("t_post_inst", 0), "bypass"])
    assert rows.loc[("t_post_inst", 3), "reason"] == "logits or states are not finite under the edit"
    assert np.isfinite(rows.loc[("t_post_inst", 4), "bypass"])


def test_ablation_at_one_layer_towards_the_harmless_mean_is_the_edit_of_that_name(refuser):
    chat, grid, directions, tokens = refuser
    options = dict(tokens=tokens, n=None, ablation="own_layer", progress=False, filter_prompts=False, languages=["en"])
    found = sweep_directions(chat, grid, directions, baseline="harmless", **options).of().set_index(["position", "layer"])
    rows = grid.select(languages=["en"], split="select", harmful=True).frame
    edit = Ablate(directions.at(2, "t_post_inst"), layers=None, baseline="harmless")
    p = np.array([float(alone(chat, text, edit).softmax(0)[REFUSES]) for text in rows["text"]])
    assert found.loc[("t_post_inst", 2), "bypass"] == pytest.approx(np.mean(np.log(p + 1e-8) - np.log(1 - p + 1e-8)), abs=1e-4)
    plain = sweep_directions(chat, grid, directions, **options).of().set_index(["position", "layer"])
    assert plain.loc[("t_post_inst", 2), "bypass"] != pytest.approx(found.loc[("t_post_inst", 2), "bypass"], abs=1e-3)


def test_a_sweep_that_was_cut_off_goes_on_where_it_stopped(refuser, swept, tmp_path, monkeypatch):
    chat, grid, directions, tokens = refuser
    options = dict(tokens=tokens, n=None, progress=False, store=tmp_path / "sweep.jsonl")
    whole, tried = sweep_module._Trial.rows, []

    def until_five(self, direction):
        if len(tried) == 5:
            raise KeyboardInterrupt
        tried.append(direction.layer)
        return whole(self, direction)

    monkeypatch.setattr(sweep_module._Trial, "rows", until_five)
    with pytest.raises(KeyboardInterrupt):
        sweep_directions(chat, grid, directions, **options)
    with (tmp_path / "sweep.jsonl").open("a") as file:
        file.write('{"position": "t_inst", "la')  # the power went in the middle of a line
    later = []
    monkeypatch.setattr(sweep_module._Trial, "rows", lambda self, direction: later.append(direction.layer) or whole(self, direction))
    found = sweep_directions(chat, grid, directions, **options)
    assert len(later) == 5
    pd.testing.assert_frame_equal(found.table, swept.table)
    again = sweep_directions(chat, grid, directions, **options)
    assert len(later) == 5
    pd.testing.assert_frame_equal(again.table, swept.table)
    with pytest.raises(StoreMismatchError, match="filter was True, is False"):
        sweep_directions(chat, grid, directions, **options, filter_prompts=False)


def test_a_file_of_something_else_is_not_taken_for_a_sweep(refuser, tmp_path):
    chat, grid, directions, tokens = refuser
    path = tmp_path / "other.jsonl"
    path.write_text(json.dumps({"kind": "replies"}) + "\n")
    with pytest.raises(StoreError, match="no file of a direction sweep"):
        sweep_directions(chat, grid, directions, tokens=tokens, progress=False, store=path)
    assert path.read_text() == json.dumps({"kind": "replies"}) + "\n"


def test_no_prompt_passing_the_filter_says_how_many_of_each_class_and_why(refuser):
    chat, grid, directions, _ = refuser
    never = RefusalTokens.given(chat, {"en": [5], "fr": [5]})
    with pytest.raises(DataError, match=r"No harmful prompt passes the filter: 0 of 12 harmful prompts have a refusal score above 0 \(they range"):
        sweep_directions(chat, grid, directions, tokens=never, progress=False)
    assert len(sweep_directions(chat, grid, directions, tokens=never, progress=False, filter_prompts=False).table)


def test_a_language_without_tokens_is_refused_and_never_scored_by_anothers(refuser):
    chat, grid, directions, _ = refuser
    english = RefusalTokens.given(chat, {"en": [REFUSES]})
    with pytest.raises(DataError, match=r"no refusal tokens for fr\..*token_free"):
        sweep_directions(chat, grid, directions, tokens=english, progress=False)
    with pytest.raises(DataError, match="no refusal tokens for en, fr"):
        sweep_directions(chat, grid, directions, progress=False)
    only = sweep_directions(chat, grid, directions, tokens=english, languages=["en"], progress=False)
    assert set(only.table["language"]) == {"all", "en"}


def test_directions_of_another_model_width_or_of_the_split_that_judges_them_are_refused(refuser, tiny_model):
    chat, grid, directions, tokens = refuser
    options = dict(tokens=tokens, progress=False)
    with pytest.raises(ModelError, match="taken from another model"):
        sweep_directions(tiny_model("llama"), grid, directions, **options)
    narrow = Directions(directions.unit[..., :16], directions.norm, directions.metadata)
    with pytest.raises(ModelError, match="has 16 entries"):
        sweep_directions(chat, grid, narrow, **options)
    with pytest.raises(DataError, match="taken from the split 'fit', which is to judge them"):
        sweep_directions(chat, grid, directions, split="fit", **options)
    turned = Directions(directions.unit, directions.norm, {**directions.metadata, "toward": "compliance"})
    with pytest.raises(DataError, match="point toward 'compliance'"):
        sweep_directions(chat, grid, turned, **options)
    with pytest.raises(DataError, match="None of the 10 directions differs from zero"):
        sweep_directions(chat, grid, Directions(directions.unit * 0, directions.norm * 0, directions.metadata), **options)


def test_a_grid_of_one_class_and_options_that_do_not_exist_are_refused(refuser):
    chat, grid, directions, tokens = refuser
    options = dict(tokens=tokens, progress=False)
    with pytest.raises(DataError, match=r"12 harmful and 0 harmless prompts in en, fr, split 'select'"):
        sweep_directions(chat, grid.select(harmful=True), directions, **options)
    with pytest.raises(DataError, match="Did you mean 'token_free'"):
        sweep_directions(chat, grid, directions, criterion="tokenfree", **options)
    with pytest.raises(DataError, match="needs ablation='own_layer'"):
        sweep_directions(chat, grid, directions, baseline="harmless", **options)


def test_the_states_criterion_needs_two_meanings_and_classes_that_differ(refuser):
    chat, grid, directions, _ = refuser
    with pytest.raises(DataError, match="en has 1 harmless meanings here"):
        sweep_directions(chat, grid, directions, criterion="token_free", n=1, progress=False)
    same = build_grid(16).with_splits()
    rows = same.frame.assign(text="Hello there.")
    with pytest.raises(DataError, match="do not lie nearer to their own class"):
        sweep_directions(chat, PromptGrid(rows), directions, criterion="token_free", progress=False)
