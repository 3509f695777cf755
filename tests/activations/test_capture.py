"""Capture: the values, their labels, and what it refuses."""

from __future__ import annotations

import copy

import numpy as np
import pandas as pd
import pytest
import torch
import xarray as xr

from tests.tiny import FAMILIES, build_grid, build_model
from workbench.activations import shards
from workbench.activations.capture import capture, too_long
from workbench.activations.store import open_store
from workbench.errors import ModelCheckError, ModelError, PromptError, StoreError
from workbench.models import load_model
from workbench.models.hooks import edited
from workbench.prompts import PromptGrid

POSITIONS = ("t_inst", "t_post_inst", "mean_inst", "post[1]")


def take(chat, grid, **options):
    return capture(chat, grid, progress=False, **options)


@pytest.mark.parametrize("family", FAMILIES)
def test_values_equal_one_prompt_at_a_time_by_transformers(tiny_model, family):
    chat, grid = tiny_model(family), build_grid()
    acts = take(chat, grid, positions=POSITIONS, token_budget=64, shard_size=5)
    twin = copy.deepcopy(chat.model)
    top = {}
    twin.base_model.layers[-1].register_forward_hook(lambda m, a, out: top.__setitem__("state", out[0] if isinstance(out, tuple) else out))
    assert acts["residual"].dims == ("prompt", "layer", "position", "hidden")
    for text, name in zip(grid.frame["text"], grid.frame["prompt_id"], strict=True):
        tokens = chat.tokenise([text])[0]
        with torch.no_grad():
            states = twin.base_model(torch.tensor([tokens.ids]), output_hidden_states=True).hidden_states
        layers = torch.stack([*states[:-1], top["state"]])[:, 0]
        expected = torch.stack(
            [
                layers[:, tokens.inst_end - 1],
                layers[:, -1],
                layers[:, tokens.inst_start : tokens.inst_end].mean(1),
                layers[:, tokens.inst_end + 1],
            ],
            dim=1,
        )
        found = acts["residual"].sel(prompt=name).transpose("layer", "position", "hidden").values
        np.testing.assert_allclose(found, expected.numpy(), atol=2e-5, rtol=1e-4)


def test_labels_and_provenance_travel_with_the_values(tiny_model):
    chat, grid = tiny_model("qwen2"), build_grid().with_splits(seed=3)
    acts = take(chat, grid, layers=[1, 3])
    frame = grid.frame
    for column in ("meaning_id", "language", "split", "tier"):
        assert acts[column].values.tolist() == frame[column].tolist()
    assert acts["harmful"].dtype == bool and acts["harmful"].values.tolist() == frame["harmful"].tolist()
    assert acts["prompt"].values.tolist() == frame["prompt_id"].tolist()
    assert acts["layer"].values.tolist() == [1, 3] and acts["position"].values.tolist() == ["t_inst", "t_post_inst"]
    assert acts["n_chars"].values.tolist() == [len(t) for t in frame["text"]]
    assert (acts["n_tokens"].values - acts["n_text_tokens"].values).min() > 0
    assert acts.attrs["fingerprint"] == chat.fingerprint and acts.attrs["grid"] == grid.hash and acts.attrs["template"] == chat.template.hash
    assert acts["residual"].dtype == np.float32
    assert not any(text in str(acts.to_dict()) for text in frame["text"]), "no prompt text in activations"


def test_row_order_shards_and_budgets_do_not_change_a_prompts_values(tiny_model, rng):
    chat, grid = tiny_model("gemma2"), build_grid(8)
    whole = take(chat, grid)
    turned = PromptGrid(grid.frame.iloc[rng.permutation(len(grid))].reset_index(drop=True))
    for other in (take(chat, turned), take(chat, grid, token_budget=1), take(chat, grid, shard_size=3, token_budget=90)):
        aligned = other.sel(prompt=whole["prompt"])
        np.testing.assert_allclose(aligned["residual"].values, whole["residual"].values, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_a_store_holds_the_same_as_memory(tiny_model, tmp_path, dtype):
    chat, grid = tiny_model("llama"), build_grid()
    memory = take(chat, grid, dtype=dtype, shard_size=5)
    disk = take(chat, grid, dtype=dtype, shard_size=5, store=tmp_path / "a.zarr")
    assert disk["residual"].dtype == np.dtype(dtype)
    xr.testing.assert_identical(disk.load(), memory)
    xr.testing.assert_identical(open_store(tmp_path / "a.zarr").load(), memory)
    if dtype == "float16":
        full = take(chat, grid, shard_size=5)
        np.testing.assert_array_equal(memory["residual"].values, full["residual"].values.astype(np.float16))


@pytest.mark.parametrize("precision", [torch.bfloat16, torch.float16])
def test_half_precision_states_are_kept_exactly(tiny_tokenizer, precision):
    model = build_model("llama", vocab_size=len(tiny_tokenizer)).to(precision)
    chat, grid = load_model(model, tokenizer=tiny_tokenizer), build_grid()
    acts = take(chat, grid, positions=["t_inst"], token_budget=1)
    for row, text in enumerate(grid.frame["text"]):
        tokens = chat.tokenise([text])[0]
        with torch.no_grad():
            states = copy.deepcopy(model).model(torch.tensor([tokens.ids]), output_hidden_states=True).hidden_states
        expected = torch.stack(states[:-1])[:, 0, tokens.inst_end - 1].float().numpy()
        np.testing.assert_array_equal(acts["residual"].values[row, :-1, 0], expected)
    assert acts.attrs["model_dtype"] == str(precision).removeprefix("torch.") and acts["residual"].dtype == np.float32


def test_an_edit_is_part_of_what_was_measured(tiny_model, tmp_path):
    chat, grid = tiny_model("llama"), build_grid()

    def push(residual):
        return residual + 1

    plain = take(chat, grid, store=tmp_path / "a.zarr")
    with edited(chat, {2: push}):
        moved = take(chat, grid)
        with pytest.raises(StoreError, match=r"another edits \(active: stored \[\], given .*push"):
            take(chat, grid, store=tmp_path / "a.zarr")
    np.testing.assert_allclose(moved["residual"].sel(layer=2).values, plain["residual"].sel(layer=2).values + 1, atol=1e-5)
    assert "push" in moved.attrs["edits"] and plain.attrs["edits"] == "[]"


def test_prompts_beyond_the_context_are_refused_by_id_and_listed(tiny_tokenizer):
    model = build_model("llama", vocab_size=len(tiny_tokenizer))
    model.config.max_position_embeddings = 40
    chat = load_model(model, tokenizer=tiny_tokenizer)
    frame = build_grid().frame
    frame.loc[3, "text"] = "bread " * 40
    grid = PromptGrid(frame)
    with pytest.raises(PromptError, match=rf"1 prompts are longer than the context .*40 tokens.*{frame.loc[3, 'prompt_id']}.*too_long"):
        take(chat, grid)
    listed = too_long(chat, grid)
    assert listed["prompt_id"].tolist() == [frame.loc[3, "prompt_id"]] and listed["n_tokens"][0] > 40
    assert take(chat, PromptGrid(frame.drop(index=3))).sizes["prompt"] == len(frame) - 1


def test_a_language_with_one_class_is_refused_unless_allowed(tiny_model):
    frame = build_grid().frame
    grid = PromptGrid(frame[(frame["language"] == "en") | frame["harmful"]])
    with pytest.raises(PromptError, match="fr"):
        take(tiny_model("llama"), grid)
    assert take(tiny_model("llama"), grid, allow_one_class=True).sizes["prompt"] == len(grid)


def test_a_missing_template_token_names_the_prompt(tiny_model):
    with pytest.raises(PromptError, match=r"Prompt en-0: position post\[99\] does not exist"):
        take(tiny_model("llama"), build_grid(), positions=["post[99]"])


def poisoned(chat, at, value):
    """Let block 1 write one value into the last token of each row as long as ``at``."""

    def write(module, args, output):
        row = torch.tensor([output.shape[1] == at])
        return torch.where(row, torch.full_like(output, value), output)

    return chat.parts.blocks[1].register_forward_hook(write)


def test_nan_activations_name_prompt_and_layer_and_keep_finished_shards(tiny_model, tmp_path):
    chat, grid = tiny_model("llama"), build_grid(10)
    path = tmp_path / "a.zarr"
    expected = take(chat, grid, shard_size=4, token_budget=1)
    lengths = expected["n_tokens"].values
    first = next(i for i in range(4, len(lengths)) if lengths[i] not in lengths[:4])
    handle = poisoned(chat, lengths[first], float("nan"))
    try:
        with pytest.raises(ModelCheckError, match=rf"Prompt {expected['prompt'].values[first]} .*NaN or infinite activations from layer 2"):
            take(chat, grid, shard_size=4, token_budget=1, store=path)
    finally:
        handle.remove()
    with pytest.raises(StoreError, match=r"is unfinished: \d of 5 shards.*run the same capture again"):
        open_store(path)
    kept = [file.stat().st_mtime_ns for file in sorted((path / "residual" / "c" / "0").rglob("0"))]
    xr.testing.assert_identical(take(chat, grid, shard_size=4, token_budget=1, store=path).load(), expected)
    assert kept and kept == [file.stat().st_mtime_ns for file in sorted((path / "residual" / "c" / "0").rglob("0"))]


def test_values_beyond_half_precision_are_refused_and_never_infinite(tiny_model):
    chat, grid = tiny_model("llama"), build_grid()
    with edited(chat, {2: lambda residual: residual + 1e5}):
        with pytest.raises(StoreError, match="layer 2, t_inst, exceed float16"):
            take(chat, grid, dtype="float16")
        assert np.isfinite(take(chat, grid)["residual"].values).all()


def test_out_of_memory_halves_the_budget_and_is_recorded(tiny_model, monkeypatch, caplog, tmp_path):
    chat, grid = tiny_model("llama"), build_grid()
    expected = take(chat, grid)
    states = type(chat).states

    def cramped(self, tokens, **options):
        if sum(map(len, tokens)) > 120:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")
        return states(self, tokens, **options)

    monkeypatch.setattr(type(chat), "states", cramped)
    found = take(chat, grid, token_budget=400)
    assert found.attrs["token_budget"] == 100 and "going on with 100" in caplog.text
    np.testing.assert_allclose(found["residual"].values, expected["residual"].values, atol=1e-5, rtol=1e-4)
    take(chat, grid, token_budget=400, store=tmp_path / "a.zarr")
    import json

    manifest = json.loads((tmp_path / "a.zarr" / "manifest.json").read_text(encoding="utf-8"))
    assert {entry["token_budget"] for entry in manifest["shards"].values()} == {100}
    assert open_store(tmp_path / "a.zarr").attrs["token_budget"] == 100

    monkeypatch.setattr(type(chat), "states", lambda *a, **k: (_ for _ in ()).throw(RuntimeError("DefaultCPUAllocator: can't allocate memory")))
    with pytest.raises(ModelError, match="Out of memory with one prompt of"):
        take(chat, grid)
    monkeypatch.setattr(type(chat), "states", lambda *a, **k: (_ for _ in ()).throw(RuntimeError("another trouble")))
    with pytest.raises(RuntimeError, match="another trouble"):
        take(chat, grid)


def test_one_bar_shows_prompts_per_second_and_time_left(tiny_model, capsys):
    capture(tiny_model("llama"), build_grid())
    shown = capsys.readouterr().err
    assert "prompt/s" in shown and "12/12" in shown
    take(tiny_model("llama"), build_grid())
    assert capsys.readouterr().err == ""


def test_an_empty_grid_is_refused(tiny_model):
    class Empty:
        frame = pd.DataFrame(columns=["prompt_id", "text"])
        hash = ""

    with pytest.raises(PromptError, match="no prompts"):
        take(tiny_model("llama"), Empty())


def test_shards_are_computed_without_knowing_the_others(tiny_model):
    from workbench.activations.labels import prompt_table
    from workbench.activations.plan import make_plan

    chat, grid = tiny_model("llama"), build_grid(9)
    tokens = chat.tokenise(grid.frame["text"].tolist())
    plan = make_plan(chat, shard_size=4, token_budget=100)
    table = prompt_table(grid.frame, tokens)
    every = {number: block for number, _, block, _ in shards.computed_shards(chat, plan, tokens, table, set(), False)}
    some = {number: block for number, _, block, _ in shards.computed_shards(chat, plan, tokens, table, {0, 2}, False)}
    assert set(some) == set(every) - {0, 2}
    assert all(np.array_equal(some[number], every[number]) for number in some), "bitwise, or a resumed store would differ"
