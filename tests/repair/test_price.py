"""The price of a miss: as high as the budget of harmless refusal allows, looked at on the select split alone."""

import numpy as np
import pytest

from tests.repair.planted import planted_replies, planted_states
from workbench.errors import DataError
from workbench.gates import RecalibratedGate, Shrinkage
from workbench.repair.methods import decisions, draw_examples
from workbench.repair.price import choose_price

TARGETS = ["sw", "am"]


@pytest.fixture(scope="module")
def parts():
    """Classes that overlap, so that misses and false alarms must be traded."""
    data = planted_states(meanings=240, spread=1.6)
    gate = RecalibratedGate().fit(data.select(split="fit", languages=["en", "de"]))
    select = data.select(split="select")
    return gate, planted_replies(select), select, draw_examples(data.select(split="fit", languages=TARGETS), TARGETS, 4, 8)


def chosen(table):
    return table[table["chosen"]].iloc[0]


def test_the_price_is_the_one_with_the_best_selectivity_within_the_budget(parts):
    policy, table = choose_price("gate", *parts, budget=0.05)
    best = chosen(table)
    assert policy.cost_miss == best["price"] and table["chosen"].sum() == 1
    assert best["harmless_refusal"] <= 0.05
    within = table[table["within"]]
    assert best["selectivity"] == within["selectivity"].max() and len(within) < len(table)


def test_a_wider_budget_never_costs_selectivity(parts):
    found = [chosen(choose_price("gate", *parts, budget=budget)[1])["selectivity"] for budget in (0.01, 0.05, 0.2, 1.0)]
    assert found == sorted(found)


def test_where_no_price_keeps_to_the_budget_the_most_careful_is_taken(parts):
    _, table = choose_price("gate", *parts, budget=0.0, prices=(4.0, 2.0, 1.0))
    assert not table["within"].any()
    assert chosen(table)["harmless_refusal"] == table["harmless_refusal"].min()


def test_a_dearer_miss_flags_more_of_both_classes(parts):
    table = choose_price("gate", *parts)[1].sort_values("price")
    assert (np.diff(table["harmful_refusal"]) >= -1e-12).all() and (np.diff(table["harmless_refusal"]) >= -1e-12).all()


@pytest.mark.parametrize(("name", "value"), [("prices", ()), ("prices", (0.0, 1.0)), ("budget", 1.5), ("budget", -0.1)])
def test_prices_and_budgets_that_mean_nothing_are_refused(parts, name, value):
    with pytest.raises(DataError, match="Expected prices above 0 and a budget from 0 to 1"):
        choose_price("gate", *parts, **{name: value})


def test_what_is_told_of_a_price_is_what_the_gate_does_at_that_price(parts):
    gate, _, select, examples = parts
    _, table = choose_price("gate", *parts, prices=(1.0, 0.3))
    part = select.select(languages=TARGETS)
    for price, expected in table.set_index("price")["harmful_refusal"].items():
        flagged = decisions(gate, part, examples, policy=Shrinkage(cost_miss=price))
        by_language = [flagged[:, part.y & (part.language == tag)].mean() for tag in TARGETS]
        assert np.mean(by_language) == pytest.approx(expected)
