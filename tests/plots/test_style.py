"""The one visual language: hue is the tier, dash and label the language, marker the class."""

from __future__ import annotations

import itertools

import numpy as np
import pandas as pd
import plotly.io as pio
import pytest

from workbench.errors import DataError
from workbench.plots import refusal_gap
from workbench.plots.panels import apart
from workbench.plots.style import DASHES, TEMPLATE, TIER_COLOURS, dash_of, extremes, f32, languages_of, table_of


def luminance(colour: str) -> float:
    channels = np.array([int(colour[i : i + 2], 16) for i in (1, 3, 5)]) / 255
    linear = np.where(channels <= 0.04045, channels / 12.92, ((channels + 0.055) / 1.055) ** 2.4)
    return float(linear @ [0.2126, 0.7152, 0.0722])


#: Machado et al. 2009, severity 1: how linear RGB looks with deuteranopia and protanopia.
BLINDNESS = {
    "deuteranopia": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]],
    "protanopia": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
}


def as_seen(colour: str, blindness: str) -> np.ndarray:
    rgb = np.array([int(colour[i : i + 2], 16) for i in (1, 3, 5)]) / 255
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    return np.clip(np.array(BLINDNESS[blindness]) @ linear, 0, 1) ** (1 / 2.2)


@pytest.mark.parametrize("blindness", BLINDNESS)
def test_the_tiers_stay_apart_under_colour_blindness(blindness):
    seen = [as_seen(TIER_COLOURS[tier], blindness) for tier in ("high", "mid", "low")]
    assert min(np.linalg.norm(a - b) for a, b in itertools.combinations(seen, 2)) > 0.2


@pytest.mark.parametrize("tier", TIER_COLOURS)
def test_every_hue_is_readable_on_white(tier):
    assert 1.05 / (luminance(TIER_COLOURS[tier]) + 0.05) >= 3


def test_importing_the_plots_registers_the_template_and_leaves_the_default_alone():
    assert TEMPLATE in pio.templates
    assert pio.templates.default != TEMPLATE


def test_languages_are_ordered_by_tier_whatever_the_row_order(rng):
    table = pd.DataFrame({"language": ["sw", "en", "bn", "xx", "de"], "tier": ["low", "high", "low", "unknown", "high"]})
    assert list(languages_of(table)) == ["de", "en", "bn", "sw", "xx"]
    assert languages_of(table.iloc[rng.permutation(5)]) == languages_of(table)


def test_hue_and_dash_together_name_each_of_fourteen_languages():
    languages = {f"l{i}": ("high" if i < 4 else "low") for i in range(14)}
    assert len({(tier, dash_of(tag, languages)) for tag, tier in languages.items()}) == 14
    assert len(set(DASHES)) == len(DASHES)


def test_a_missing_tier_is_unknown_and_keeps_its_row():
    table = table_of(pd.DataFrame({"language": ["xx"], "tier": [None]}), ("language", "tier"), figure="a figure")
    assert table["tier"].tolist() == ["unknown"]


def test_a_missing_column_is_named_with_the_remedy():
    with pytest.raises(DataError, match=r"refusal_gap needs .*'n'\] missing.*analysis of the same name"):
        refusal_gap(pd.DataFrame({"language": ["en"], "tier": ["high"], "statistic": ["harmful_refusal"], "value": [1], "low": [1], "high": [1]}))


def test_an_empty_table_is_refused():
    with pytest.raises(DataError, match="without rows"):
        table_of(pd.DataFrame({"language": [], "tier": []}), ("language", "tier"), figure="a figure")


def test_numbers_go_out_as_float32_with_gaps_for_what_is_missing():
    values = f32([1, None, 2.5])
    assert values.dtype == np.float32 and np.isnan(values[1])


def test_extremes_name_the_languages_and_use_a_true_minus():
    table = pd.DataFrame({"language": ["a", "b", "c"], "v": [-0.1, 0.4, np.nan]})
    assert extremes(table, "v", "+.1f") == "−0.1 (a) to +0.4 (b)"


def test_labels_that_would_overlap_are_moved_apart_in_order_and_inside():
    placed = apart([0.01, 0.0, 0.02, 0.9], gap=0.06)
    assert sorted(range(4), key=placed.__getitem__) == [1, 0, 2, 3]
    assert min(np.diff(sorted(placed))) >= 0.06 - 1e-9 and min(placed) >= 0
