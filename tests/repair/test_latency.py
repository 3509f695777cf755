"""Timing a route: both ways answer the same prompts in turns, and ratios are taken within rounds."""

import itertools

import numpy as np
import pytest

from workbench.errors import DataError
from workbench.interventions.edits import Add
from workbench.models.load import load_model
from workbench.prompts.sources import load_prompts
from workbench.repair.latency import Latency, latency


@pytest.fixture(scope="module")
def setting():
    chat = load_model("organism:aligned")
    return chat, load_prompts("organism", limit=6).select(split="score"), Add(np.ones(chat.hidden_size), 0.0, layers=5)


def test_both_ways_answer_every_prompt_in_every_round(setting):
    found = latency(*setting, rounds=3, max_new_tokens=4, token_budget=160, clock=itertools.count().__next__)
    batches = found.provenance["batches"]
    assert batches > 2 and len(found.table) == 6
    assert np.allclose(found.table["seconds_per_reply"], batches / len(setting[1])), "this clock ticks once per batch"
    assert found.ratio == (1.0, 1.0, 1.0)
    assert found.table["tokens_per_reply"].nunique() == 1, "an edit of strength 0 changes no reply"


def test_a_way_that_takes_twice_as_long_has_the_ratio_two(setting, monkeypatch):
    import workbench.repair.latency as module
    from workbench.models.hooks import edits_of

    spent, answer = [0.0], module.reply_to

    def slow(chat, *args, **kwargs):
        spent[0] += 2.0 if edits_of(chat) else 1.0
        return answer(chat, *args, **kwargs)

    monkeypatch.setattr(module, "reply_to", slow)
    found = latency(*setting, rounds=2, max_new_tokens=2, clock=lambda: spent[0])
    assert found.ratio == (2.0, 2.0, 2.0)
    assert found.table.loc[found.table["what"] == "plain", ["ratio", "low", "high"]].to_numpy().tolist() == [[1, 1, 1]] * 2


def test_time_passes_and_the_table_is_saved(setting, tmp_path):
    found = latency(*setting, rounds=1, max_new_tokens=2)
    assert (found.table["seconds_per_reply"] > 0).all() and found.provenance["clock"] == "CPU seconds of the process"
    assert found.ratio.low <= found.ratio.value <= found.ratio.high
    assert Latency.load(found.save(tmp_path / "latency.parquet")).ratio == found.ratio


def test_no_round_is_refused(setting):
    with pytest.raises(DataError, match="rounds=0"):
        latency(*setting, rounds=0)
