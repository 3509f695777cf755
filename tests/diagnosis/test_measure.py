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


def test_a_model_before_of_another_build_is_said_to_be(tiny_model):
    from workbench.diagnosis.measure import unlike_before

    after = tiny_model("llama")
    assert unlike_before(after, None).empty and unlike_before(after, after).empty
    told = " ".join(unlike_before(after, tiny_model("llama", n_layers=2, hidden_size=64))["reason"])
    assert "before has 2 blocks and after 4" in told and "up to layer 2" in told
    assert "widths 64 and 32" in told
