"""The small measurements take what a grid may hold."""

import numpy as np

from tests.tiny import build_grid
from workbench.diagnosis import measure
from workbench.prompts import PromptGrid


def test_texts_of_one_token_are_passed_over_when_text_is_weighed(tiny_model):
    frame = build_grid(6).frame
    harmless = frame.index[(frame["language"] == "en") & ~frame["harmful"]]
    frame.loc[harmless[0], "text"] = "a"
    table = measure.bits(tiny_model("llama"), PromptGrid(frame), rng=np.random.default_rng(0))
    assert dict(zip(table["language"], table["n"], strict=True)) == {"en": 2, "fr": 3}
    frame.loc[harmless, "text"] = "a"
    table = measure.bits(tiny_model("llama"), PromptGrid(frame), rng=np.random.default_rng(0))
    assert table["language"].tolist() == ["fr"]
