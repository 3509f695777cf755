"""The adapter for lm-eval: what it refuses without the package, and that edits reach the harness where it is installed."""

from __future__ import annotations

import importlib.util

import numpy as np
import pytest

from workbench.behavior.lm_eval_adapter import as_lm, require_scope_all
from workbench.errors import ModelError
from workbench.interventions import Add

AXIS = np.linspace(-1, 1, 32)


def test_edits_of_a_part_of_the_prompt_are_refused(tiny_model):
    chat = tiny_model("llama")
    with chat.edited(Add(AXIS, 1.0, layers=1)):
        require_scope_all(chat)
    for options in ({"scope": "last_prompt"}, {"scope": ("prompt", "decode")}, {"rows": {"a": True}}):
        with chat.edited(Add(AXIS, 1.0, layers=1, **options)), pytest.raises(ModelError, match=r"The edit \[layer 1: Add"):
            require_scope_all(chat)


@pytest.mark.skipif(importlib.util.find_spec("lm_eval") is not None, reason="lm-eval is installed")
def test_without_lm_eval_the_extra_is_named(tiny_model):
    with pytest.raises(ModelError, match=r"Expected the extra \[eval\]"):
        as_lm(tiny_model("llama"))


@pytest.mark.skipif(importlib.util.find_spec("lm_eval") is None, reason="lm-eval is not installed (extra [eval])")
def test_an_edit_changes_what_the_harness_measures(tiny_model):
    from lm_eval.api.instance import Instance

    chat = tiny_model("llama")

    def score() -> float:
        asked = Instance(request_type="loglikelihood", doc={}, arguments=("Name three", " rivers"), idx=0)
        return as_lm(chat, batch_size=1).loglikelihood([asked])[0][0]

    plain = score()
    with chat.edited(Add(AXIS, 50.0, layers=2)):
        assert score() != pytest.approx(plain, abs=1e-3)
    assert score() == pytest.approx(plain, abs=1e-5)
