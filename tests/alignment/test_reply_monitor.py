"""Token weights are shown as the first step would weigh, and a collapse is named with its languages."""

from __future__ import annotations

import pandas as pd
import pytest
import torch

from workbench.alignment.distillation import Query
from workbench.alignment.msd import MSD
from workbench.alignment.reply_monitor import COLUMNS, collapse_notes, start_weights
from workbench.alignment.weighting import DPSW

TIERS = {"sw": "low", "yo": None}


@pytest.fixture(scope="module")
def chat(tiny_model):
    return tiny_model("llama", n_layers=2)


@pytest.fixture(scope="module")
def queries(chat):
    """Five queries whose teacher reads more than the student."""
    rows = []
    for i in range(5):
        own, more = (tuple(t.ids) for t in chat.tokenise([f"word {i}", f"word {i} and another word"]))
        rows.append(Query(f"m{i}:sw", "sw" if i % 2 else "yo", i < 3, own, more))
    return rows


def monitored(statistic, **languages):
    rows = [(step, statistic, tag, value) for tag, values in languages.items() for step, value in enumerate(values)]
    return pd.DataFrame(rows, columns=["step", "statistic", "language", "value"])


def test_the_start_is_weighed_without_being_changed_and_the_same_again(chat, queries):
    before = {key: value.clone() for key, value in chat.model.state_dict().items()}
    state = torch.get_rng_state()
    table = start_weights(chat, queries, MSD(max_new_tokens=4), tiers=TIERS, batch_size=2, seed=3)
    assert all(torch.equal(value, before[key]) for key, value in chat.model.state_dict().items())
    assert not chat.model.training and torch.equal(torch.get_rng_state(), state)
    assert not any(p.grad is not None for p in chat.model.parameters())
    assert tuple(table) == COLUMNS and list(dict.fromkeys(table["prompt_id"])) == [query.prompt_id for query in queries]
    assert set(table.loc[table["language"] == "sw", "tier"]) == {"low"} and table.loc[table["language"] == "yo", "tier"].isna().all()
    pd.testing.assert_frame_equal(table, start_weights(chat, queries, MSD(max_new_tokens=4), tiers=TIERS, batch_size=2, seed=3))
    assert len(start_weights(chat, [], MSD())) == 0


def test_the_runs_own_weighting_divergence_and_policy_are_used(chat, queries):
    def weighed(**options):
        return start_weights(chat, queries, MSD(max_new_tokens=4, **options), seed=3)

    usual = weighed()
    assert (usual.groupby("prompt_id")["weight"].mean() - 1).abs().max() < 1e-4 and usual["weight"].std() > 0
    assert (weighed(weighting=None)["weight"] == 1).all()
    raw = weighed(weighting=DPSW(normalise="none"))
    assert (raw["weight"] - raw["teacher"] * raw["student"]).abs().max() < 1e-6
    assert not weighed(divergence="reverse")["divergence"].equals(usual["divergence"])
    assert not weighed(on_policy=False, temperature=0.0).equals(weighed(temperature=0.0))


def test_a_language_whose_replies_collapse_is_named_though_the_mean_hides_it():
    lengths = monitored("length_harmless", en=[20, 20, 20], sw=[20, 12, 8], yo=[20, 19, 21])
    (note,) = collapse_notes(lengths)
    assert note.startswith("Replies to harmless requests shrank from 20.0 to 16.3 tokens") and "(sw 20.0 to 8.0)" in note and "yo" not in note
    assert collapse_notes(monitored("length_harmless", en=[20, 12], sw=[20, 11])) == []


def test_refusals_that_replace_answers_to_harmful_requests_are_no_collapse():
    assert collapse_notes(monitored("length_harmful", en=[40, 8], sw=[40, 6])) == []
    # and the replies that are trained on, of both classes, say nothing where the harmless ones were looked at
    sampled = monitored("length", **{"": [40, 8]})
    assert collapse_notes(pd.concat([sampled, monitored("length_harmless", en=[40, 39])])) == []
    assert len(collapse_notes(sampled)) == 1


def test_over_refusal_is_told_on_average_and_where_one_language_has_it():
    (mean,) = collapse_notes(monitored("harmless_refusal", en=[0.0, 0.04], sw=[0.0, 0.04]))
    assert "rose from 0.000 to 0.040" in mean and "sw" not in mean
    (one,) = collapse_notes(monitored("harmless_refusal", **{f"q{i}": [0.0, 0.0] for i in range(9)}, sw=[0.0, 0.15]))
    assert "(sw 0.000 to 0.150)" in one and "rose from 0.000 to 0.015" in one
    assert collapse_notes(monitored("harmless_refusal", en=[0.0, 0.02], sw=[0.1, 0.08])) == []


def test_one_measurement_is_no_change():
    assert collapse_notes(monitored("harmless_refusal", en=[0.5])) == [] and collapse_notes(monitored("loss", en=[1.0, 2.0])) == []
