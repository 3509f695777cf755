"""Stores on disk: damage, strangers, full disks, and what a message must say."""

from __future__ import annotations

import errno
import json
import multiprocessing
import shutil
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import xarray as xr
import zarr
from tokenizers.normalizers import Replace

from tests.tiny import build_grid, build_model
from workbench.activations import capture as capture_module
from workbench.activations import manifest as manifest_module
from workbench.activations.capture import capture
from workbench.activations.manifest import one_writer
from workbench.activations.store import Store, open_store, verify_store
from workbench.errors import PromptError, StoreError, StoreMismatchError
from workbench.models import load_model
from workbench.prompts import PromptGrid

OPTIONS = {"shard_size": 4, "progress": False}


@pytest.fixture
def chat(tiny_model):
    return tiny_model("llama")


@pytest.fixture
def grid():
    return build_grid(8)


@pytest.fixture
def path(tmp_path, chat, grid):
    capture(chat, grid, store=tmp_path / "run" / "a.zarr", **OPTIONS)
    return tmp_path / "run" / "a.zarr"


def chunk(path, shard, layer=0, position=0):
    return path / "residual" / "c" / str(shard) / str(layer) / str(position) / "0"


def test_reading_is_lazy_and_by_chunk(path):
    chunk(path, 0, layer=1).unlink()
    acts = open_store(path)  # nothing read yet
    assert np.isfinite(acts["residual"].isel(layer=2).values).all()
    assert np.isfinite(acts["residual"].isel(layer=1, prompt=slice(4, None)).values).all()
    with pytest.raises(StoreError):
        acts["residual"].isel(layer=1).values  # noqa: B018


def test_the_store_holds_no_text_and_says_what_it_is(path, chat, grid):
    everything = b"".join(file.read_bytes() for file in path.rglob("*") if file.is_file())
    assert not any(text.encode() in everything for text in grid.frame["text"])
    manifest = json.loads((path / "manifest.json").read_text(encoding="utf-8"))
    assert manifest["status"] == "finished" and manifest["identity"]["model"]["fingerprint"] == chat.fingerprint
    assert len(manifest["shards"]) == 4 and len(manifest["shards"]["0"]["chunks"]) == 10
    assert "text" not in pd.read_parquet(path / "prompts.parquet").columns
    plain = zarr.open_array(path / "residual", mode="r")  # readable without this package
    np.testing.assert_array_equal(plain[:], open_store(path)["residual"].values)


def flip(file):
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 0xFF
    file.write_bytes(content)


@pytest.mark.parametrize(
    ("harm", "what"), [(flip, "changed"), (lambda f: f.unlink(), "missing"), (lambda f: f.write_bytes(f.read_bytes()[:50]), "changed")]
)
def test_damage_is_found_named_and_only_that_shard_captured_again(path, chat, grid, harm, what, caplog):
    expected = open_store(path).load()
    harm(chunk(path, 2, layer=3, position=1))
    found = verify_store(path)
    assert [(d.shard, d.first_prompt, d.what) for d in found] == [(2, 8, what)]
    with pytest.raises(StoreError, match=rf"shard 2 \(prompts from row 8\): residual/c/2/3/1/0 {what}.*Run the same capture again"):
        open_store(path).load()
    before = {shard: chunk(path, shard).stat().st_mtime_ns for shard in range(4)}
    repaired = capture(chat, grid, store=path, **OPTIONS).load()
    assert "shards [2] are damaged" in caplog.text
    xr.testing.assert_identical(repaired, expected)
    assert [shard for shard in range(4) if chunk(path, shard).stat().st_mtime_ns != before[shard]] == [2]
    assert verify_store(path) == []


def test_a_finished_store_is_opened_without_running_the_model(path, chat, grid, monkeypatch):
    monkeypatch.setattr(type(chat), "states", lambda *a, **k: pytest.fail("the model ran"))
    assert capture(chat, grid, store=path, **OPTIONS).sizes["prompt"] == 16


def another_seed(chat, grid):
    return load_model(build_model("llama", vocab_size=354, seed=9), tokenizer=chat.tokenizer), grid, {}


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (another_seed, r"another model \(fingerprint: stored \"\w+\", given \"\w+\"\)"),
        (
            lambda chat, grid: (load_model(chat.model, tokenizer=chat.tokenizer, template="plain"), grid, {}),
            r"another template \(kind: stored \"own\", given \"plain\"",
        ),
        (
            lambda chat, grid: (load_model(chat.model, tokenizer=chat.tokenizer, system="Be brief."), grid, {}),
            r"another system prompt \(system: stored null, given \"Be brief",
        ),
        (lambda chat, grid: (chat, build_grid(7), {}), r"another grid \(hash: .*prompts: stored 16, given 14\)"),
        (lambda chat, grid: (chat, grid, {"layers": [1, 2]}), r"another plan \(layers: stored \[0, 1, 2, 3, 4\], given \[1, 2\]\)"),
        (lambda chat, grid: (chat, grid, {"token_budget": 77}), r"another plan \(token_budget: stored 2048, given 77\)"),
        (lambda chat, grid: (chat, grid, {"dtype": "float16"}), r"another plan \(dtype"),
    ],
)
def test_a_store_of_something_else_is_refused_naming_the_difference(path, chat, grid, change, named):
    before = {file: file.read_bytes() for file in path.rglob("*") if file.is_file() and file.name != ".lock"}
    other, prompts, options = change(chat, grid)
    with pytest.raises(StoreMismatchError, match=named + r".*overwrite=True"):
        capture(other, prompts, store=path, **{**OPTIONS, **options})
    assert all(file.read_bytes() == content for file, content in before.items()), "a refused store stays as it was"
    assert capture(other, prompts, store=path, overwrite=True, **{**OPTIONS, **options}).attrs["fingerprint"] == other.fingerprint


def test_another_tokenizer_under_the_same_template_is_refused(path, chat, grid):
    other = load_model(chat.model, tokenizer=chat.tokenizer)
    other.tokenizer.backend_tokenizer.normalizer = Replace("rivers", "bread")
    with pytest.raises(StoreMismatchError, match=r"made with another tokenisation \(token ids"):
        capture(other, grid, store=path, **OPTIONS)


def test_the_same_weights_from_elsewhere_are_the_same_model(path, chat, grid, tmp_path):
    chat.model.save_pretrained(tmp_path / "copy")
    chat.tokenizer.save_pretrained(tmp_path / "copy")
    assert capture(load_model(tmp_path / "copy"), grid, store=path, **OPTIONS).sizes["prompt"] == 16


def test_other_directories_are_neither_taken_for_stores_nor_deleted(tmp_path, chat, grid):
    (tmp_path / "manifest.json").write_text("{}", encoding="utf-8")
    (tmp_path / "precious").write_text("x", encoding="utf-8")
    with pytest.raises(StoreError, match="nothing there was touched"):
        capture(chat, grid, store=tmp_path, overwrite=True, **OPTIONS)
    with pytest.raises(StoreError, match="damaged"):
        capture(chat, grid, store=tmp_path, **OPTIONS)
    with pytest.raises(StoreError, match="is a file"):
        capture(chat, grid, store=tmp_path / "precious", **OPTIONS)
    with pytest.raises(StoreError, match=r"cannot be written \(Not a directory.*another path"):
        capture(chat, grid, store=tmp_path / "precious" / "a.zarr", **OPTIONS)
    (tmp_path / "manifest.json").unlink()
    with pytest.raises(StoreError, match="other content; nothing there was touched"):
        capture(chat, grid, store=tmp_path, **OPTIONS)
    with pytest.raises(StoreError, match="no activation store"):
        open_store(tmp_path / "nowhere")
    assert (tmp_path / "precious").read_text(encoding="utf-8") == "x"


def test_a_store_of_a_later_version_is_refused(path):
    manifest = json.loads((path / "manifest.json").read_text(encoding="utf-8"))
    (path / "manifest.json").write_text(json.dumps({**manifest, "version": 99}), encoding="utf-8")
    with pytest.raises(StoreError, match=r"version 99; expected 'workbench activations' version 1"):
        open_store(path)


def test_a_damaged_table_is_refused_and_written_anew_by_capture(path, chat, grid):
    expected = open_store(path).load()
    (path / "prompts.parquet").write_bytes(b"x")
    with pytest.raises(StoreError, match="rows cannot be labelled"):
        open_store(path)
    xr.testing.assert_identical(capture(chat, grid, store=path, **OPTIONS).load(), expected)


def test_too_little_space_is_said_before_anything_runs(tmp_path, chat, grid, monkeypatch):
    monkeypatch.setattr(capture_module, "free_space", lambda _: 1000)
    monkeypatch.setattr(type(chat), "states", lambda *a, **k: pytest.fail("the model ran"))
    with pytest.raises(StoreError, match=r"needs 0\.02 MB more, 0\.00 MB are free.*float16"):
        capture(chat, grid, store=tmp_path / "a.zarr", **OPTIONS)


@pytest.mark.parametrize("where", ["chunk", "manifest"])
def test_a_disk_that_fills_up_keeps_finished_shards_and_the_run_goes_on_later(tmp_path, chat, grid, monkeypatch, where):
    expected = capture(chat, grid, **OPTIONS)
    real_write, real_whole, real_sha = Store.write, manifest_module.write_whole, manifest_module.sha256
    full = SimpleNamespace(now=False)

    def write(self, shard, rows, block, **options):
        full.now = shard == 2
        return real_write(self, shard, rows, block, **options)

    def failing(real):
        def call(*args, **kwargs):
            if full.now:
                raise OSError(errno.ENOSPC, "No space left on device")
            return real(*args, **kwargs)

        return call

    monkeypatch.setattr(Store, "write", write)
    name, real = ("sha256", real_sha) if where == "chunk" else ("write_whole", real_whole)
    monkeypatch.setattr(f"workbench.activations.store.{name}", failing(real))
    with pytest.raises(
        StoreError, match=r"disk is full while writing shard 2 .*needed, .*free\. The 2 finished shards are kept.*run the same capture again"
    ):
        capture(chat, grid, store=tmp_path / "a.zarr", **OPTIONS)
    monkeypatch.undo()
    assert Store(tmp_path / "a.zarr").finished == {0, 1} and verify_store(tmp_path / "a.zarr") == []
    xr.testing.assert_identical(capture(chat, grid, store=tmp_path / "a.zarr", **OPTIONS).load(), expected)


def test_an_interrupt_leaves_a_store_that_goes_on(tmp_path, chat, grid, monkeypatch):
    expected = capture(chat, grid, **OPTIONS)
    states, calls = type(chat).states, []

    def interrupted(self, tokens, **options):
        calls.append(len(tokens))
        if len(calls) == 3:
            raise KeyboardInterrupt
        return states(self, tokens, **options)

    monkeypatch.setattr(type(chat), "states", interrupted)
    with pytest.raises(KeyboardInterrupt):
        capture(chat, grid, store=tmp_path / "a.zarr", **OPTIONS)
    assert Store(tmp_path / "a.zarr").finished == {0, 1}
    xr.testing.assert_identical(capture(chat, grid, store=tmp_path / "a.zarr", **OPTIONS).load(), expected)
    assert len(calls) == 5, "three shards begun, two more after the interrupt"
    with pytest.raises(StoreError, match="never finished"):
        shutil.copytree(tmp_path / "a.zarr", tmp_path / "b.zarr")
        Store(tmp_path / "b.zarr", writable=True).forget({3})
        open_store(tmp_path / "b.zarr", allow_unfinished=True).load()


def test_a_second_writer_is_refused(path, chat, grid):
    with one_writer(path), pytest.raises(StoreError, match="Another process is writing"):
        capture(chat, grid, store=path, **OPTIONS)
    assert multiprocessing.active_children() == []


# ------------------------------------------------------------------------------------------------ pairs, and sets without labels


def paired(grid):
    """Make twins of meanings 0 and 1, 2 and 3, ..."""
    return PromptGrid(grid.frame.assign(pair_id=[f"p{int(m[1:]) // 2}" for m in grid.frame["meaning_id"]]))


def test_pairs_go_along_with_the_prompts(tmp_path, chat, grid):
    twins = paired(grid)
    acts = capture(chat, twins, store=tmp_path / "a.zarr", **OPTIONS)
    assert acts["pair_id"].dims == ("prompt",)
    assert acts["pair_id"].values.tolist() == twins.frame["pair_id"].tolist()
    xr.testing.assert_identical(open_store(tmp_path / "a.zarr")["pair_id"], capture(chat, twins, **OPTIONS)["pair_id"])
    assert verify_store(tmp_path / "a.zarr") == []


def test_a_store_without_pairs_is_what_it_was_and_goes_on_as_before(path, chat, grid, monkeypatch):
    """As stores were before grids could have pairs: the columns, and the identity that a capture must repeat."""
    columns = ["prompt_id", "meaning_id", "language", "harmful", "category", "split", "tier", "n_tokens", "n_text_tokens", "n_chars"]
    assert pd.read_parquet(path / "prompts.parquet").columns.tolist() == columns
    manifest = json.loads((path / "manifest.json").read_text(encoding="utf-8"))
    assert manifest["identity"]["grid"] == {"hash": "3edc2972f535df1a14bb7c482bfa3c0a5e6d9830222ce992ab034e43cb7a2acd", "prompts": 16}
    assert "pair_id" not in open_store(path).coords
    Store(path, writable=True).forget({1})
    before = {shard: chunk(path, shard).stat().st_mtime_ns for shard in range(4)}
    assert "pair_id" not in capture(chat, grid, store=path, **OPTIONS).coords
    assert [shard for shard in range(4) if chunk(path, shard).stat().st_mtime_ns != before[shard]] == [1]


def test_the_same_prompts_as_pairs_are_another_grid(path, chat, grid):
    with pytest.raises(StoreMismatchError, match=r"another grid \(hash"):
        capture(chat, paired(grid), store=path, **OPTIONS)


def test_a_set_without_harm_labels_is_captured_and_one_class_of_a_labelled_set_is_not(tmp_path, chat, grid):
    harmless = grid.select(harmful=False).frame
    unlabelled = PromptGrid(harmless.assign(source="flores200"))
    assert not capture(chat, unlabelled, store=tmp_path / "a.zarr", **OPTIONS)["harmful"].values.any()
    with pytest.raises(PromptError, match="harmless prompts and no harmful ones"):
        capture(chat, PromptGrid(harmless.assign(source="polyrefuse")), **OPTIONS)
