"""The figure of edits: what was measured is what is drawn, per panel and class."""

import numpy as np
import pandas as pd
import pytest

from workbench.errors import DataError
from workbench.plots import steered


@pytest.fixture
def table():
    rows = []
    for edit, statistic in (("ablate", "harmful_refusal"), ("add", "harmless_refusal")):
        for tag, tier, effect in (("en", "high", 0.9), ("sw", "low", 0.4)):
            plain = 1.0 if edit == "ablate" else 0.0
            moved = plain - effect if edit == "ablate" else plain + effect
            kinds = [("direction", 0.0, plain), ("direction", 1.0, moved), ("random", 0.0, plain), ("random", 1.0, plain), ("random", 1.0, 0.5)]
            for kind, strength, value in kinds:
                row = {"edit": edit, "strength": strength, "kind": kind, "language": tag, "tier": tier, "statistic": statistic, "n": 20}
                rows.append(row | {"value": value, "low": max(0.0, value - 0.1), "high": min(1.0, value + 0.1)})
    return pd.DataFrame(rows)


def drawn(fig, name):
    return [(t.xaxis, np.round(np.asarray(t.x, float), 3).tolist()) for t in fig.data if t.name == name and t.x is not None and t.x[0] is not None]


def test_each_panel_shows_its_own_class_with_and_without_the_edit(table):
    fig = steered(table)
    assert drawn(fig, "direction removed") == [("x", [0.1]), ("x", [0.6])]
    assert drawn(fig, "direction added") == [("x2", [0.9]), ("x2", [0.4])]
    assert drawn(fig, "no edit") == [("x", [1.0]), ("x", [1.0]), ("x2", [0.0]), ("x2", [0.0])]
    assert "10%" in fig.layout.title.text and "90%" in fig.layout.title.text


def test_random_directions_are_drawn_at_the_edit_s_strength_only(table):
    points = [x for _, values in drawn(steered(table), "control direction, same length") for x in values]
    assert sorted(points) == [0.0, 0.0, 0.5, 0.5, 0.5, 0.5, 1.0, 1.0]


def test_a_table_without_edits_is_refused(table):
    with pytest.raises(DataError, match="edit"):
        steered(table.drop(columns="edit"))


def test_a_dagger_marks_languages_in_which_the_judge_was_not_validated(table):
    fig = steered(table.assign(validated=table["language"] != "sw"))
    assert [text.endswith(" †") for text in fig.layout.yaxis.ticktext] == [False, True]
    assert "† judge not validated" in fig.layout.title.subtitle.text
    assert "†" not in (steered(table).layout.title.subtitle.text or "")
