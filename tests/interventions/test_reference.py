"""Agreement with the released code of Arditi et al. 2024 (andyrdt/refusal_direction at 9d852fa), by its stored inputs and outputs."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from workbench.interventions import Ablate, Add, Patch, orthogonalised
from workbench.interventions.weights import _without
from workbench.models.chat import ChatModel
from workbench.models.template import choose_template

#: Stored name -> precision, tolerance of projections, tolerance of additions (the stored file's README).
PRECISIONS = {
    "f32": (torch.float32, 2e-6, 2e-6),
    "f64": (torch.float64, 1e-8, 1e-8),
    "bf16": (torch.bfloat16, 8e-3, 3e-2),
    "f16": (torch.float16, 1e-3, 5e-3),
}


@pytest.fixture(scope="module")
def stored(shared_dir):
    with np.load(shared_dir / "reference" / "refusal_direction.npz") as file:
        return dict(file)


@pytest.mark.parametrize("name", PRECISIONS)
def test_ablation_addition_and_patching_are_the_authors(stored, name):
    dtype, projected, added = PRECISIONS[name]
    direction, residual = stored["ablate/direction_f64"], torch.from_numpy(stored[f"ablate/x_{name}_as_f32"]).to(dtype)

    def gap(edit, key):
        return float((edit(residual).double() - torch.from_numpy(stored[key]).double()).abs().max())

    size = np.abs(stored[f"add/{name}/coeff1.0"]).max() if name in ("bf16", "f16") else 1.0
    assert gap(Ablate(direction), f"ablate/{name}/call1") <= projected * max(float(residual.abs().max()), 1.0)
    for strength in (1.0, -1.0, 0.5):
        assert gap(Add(direction, strength, "raw"), f"add/{name}/coeff{strength}") <= added * size
    assert gap(Patch(2.0, along=direction), f"patch/{name}/coeff2") <= (projected if name in ("f32", "f64") else added) * size


@pytest.mark.parametrize(("name", "tolerance"), [("f32", 1e-6), ("bf16", 1.4e-2)])
def test_orthogonalised_matrices_are_the_authors(stored, name, tolerance):
    dtype = PRECISIONS[name][0]
    unit = torch.from_numpy(stored["ablate/direction_f64"])
    unit = unit / unit.norm()
    for key, axis, expected in (("orth/embedding_[vocab,d_model]", 1, "embedding"), ("orth/W_out_proj_[d_model,d_in]", 0, "W")):
        weight = torch.from_numpy(stored[key]).to(dtype)
        found = _without(weight, unit, axis=axis)
        np.testing.assert_allclose(found.float().numpy(), stored[f"orth/{name}/{expected}"], atol=tolerance)


@pytest.fixture(scope="module")
def tiny(stored, tiny_tokenizer):
    """The authors' three-layer Llama."""
    fields = json.loads(str(stored["meta_json"]))["tiny"]["config"]
    model = LlamaForCausalLM(LlamaConfig(**{k: v for k, v in fields.items() if k != "rope_theta"})).eval().requires_grad_(False)
    state = {k.removeprefix("tiny/state/"): torch.from_numpy(v) for k, v in stored.items() if k.startswith("tiny/state/")}
    model.load_state_dict(state)
    template = choose_template(tiny_tokenizer, None, adds_bos=False, name="tiny")
    return ChatModel(model=model, tokenizer=tiny_tokenizer, name="tiny", path=None, template=template, system=None, checks={})


def test_the_authors_tiny_model_gives_the_authors_logits_under_each_edit(stored, tiny):
    ids, direction = torch.from_numpy(stored["tiny/input_ids"]), stored["ablate/direction_f64"]

    def compare(chat, key):
        with torch.no_grad():
            np.testing.assert_allclose(chat.model(input_ids=ids).logits.numpy(), stored[f"tiny/logits_{key}"], atol=1e-5)

    compare(tiny, "base")
    with tiny.edited(Ablate(direction)):
        compare(tiny, "ablation_hooks")
    with orthogonalised(tiny, direction) as copy:
        compare(copy, "orthogonalized_weights")
    with tiny.edited(Add(direction, 1.0, "raw", layers=1)):  # their "input of block 1"
        compare(tiny, "actadd_hook_layer1_coeff1")
        compare(tiny, "actadd_weights_layer1_coeff1")
