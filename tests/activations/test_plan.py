"""Plans: shards, batches and what is refused before anything runs."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from workbench.activations.plan import Plan, make_plan
from workbench.errors import ModelError, StoreError
from workbench.models.batching import batches


@given(lengths=st.lists(st.integers(1, 200), min_size=1, max_size=60), budget=st.integers(1, 500))
def test_batches_hold_every_row_once_within_the_budget_and_sorted(lengths, budget):
    found = list(batches(lengths, budget))
    assert sorted(np.concatenate(found).tolist()) == list(range(len(lengths)))
    for rows in found:
        assert len(rows) == 1 or len(rows) * max(lengths[r] for r in rows) <= budget
    in_order = [lengths[r] for rows in found for r in rows]
    assert in_order == sorted(in_order, reverse=True)


@given(n=st.integers(1, 5000), size=st.integers(1, 700))
def test_shards_cover_the_rows_in_order(n, size):
    shards = Plan(layers=(0,), positions=("t_inst",), shard_size=size).shards(n)
    assert [row for shard in shards for row in shard] == list(range(n))
    assert all(len(shard) == size for shard in shards[:-1])


def test_a_plan_takes_sites_and_numbers_and_comes_back_from_json(tiny_model):
    chat = tiny_model("llama")
    plan = make_plan(chat, layers=["blocks.2.hook_out", 0, "blocks.1.hook_in"], positions="mean_inst")
    assert plan.layers == (0, 1, 3) and plan.positions == ("mean_inst",)
    assert make_plan(chat).layers == (0, 1, 2, 3, 4)
    assert Plan.from_dict(plan.to_dict()) == plan
    assert plan.hash != make_plan(chat, layers=[0, 1, 3], positions="t_inst").hash


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"layers": [5]}, ModelError, "no layer 5.*Nearest: 4"),
        ({"layers": ["blocks.9.hook_out"]}, ModelError, "no layer 10"),
        ({"layers": "blocks.0.hook_middle"}, ModelError, "Did you mean"),
        ({"layers": []}, ModelError, "at least one of 0 to 4"),
        ({"positions": ["t_post_isnt"]}, ModelError, "Did you mean 't_post_inst'"),
        ({"positions": []}, ModelError, "at least one"),
        ({"positions": ["t_inst", "t_inst"]}, ModelError, "each once"),
        ({"dtype": "float8"}, StoreError, "float32 or float16"),
        ({"token_budget": 0}, StoreError, "at least 1"),
        ({"shard_size": 0}, StoreError, "at least 1"),
    ],
)
def test_what_cannot_be_captured_is_refused_with_the_nearest(tiny_model, options, error, message):
    with pytest.raises(error, match=message):
        make_plan(tiny_model("llama"), **options)
