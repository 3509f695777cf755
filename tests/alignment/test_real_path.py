"""``workbench repair METHOD`` on random tiny models of two families, with a real tokenizer and public preference pairs."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from tests.tiny import build_model
from workbench import cli
from workbench.alignment.preference import load_preferences
from workbench.behavior.generate import generate
from workbench.models.load import load_model
from workbench.prompts.sources import load_prompts
from workbench.runs.folder import Run

pytestmark = pytest.mark.slow

FAMILIES = ("qwen2", "gemma2")
#: Made-up harmless texts; the labels are made up too, so that there are two classes.
TEXTS = {
    "sw": "Ninawezaje {} nyumbani, hatua kwa hatua?",
    "zh": "我在家里怎么{}？请一步一步地说。",
}
THINGS = (
    *("bread", "soup", "paper", "music", "a kite", "a lamp", "tea", "a song", "a map", "a poem"),
    *("a chair", "a garden", "cheese", "candles", "dye", "a hat"),
)
FEW = ("--max-steps", "2", "--accumulation", "1", "--max-new-tokens", "4", "--learning-rate", "0.001", "--allow-loss")
ONE, TWO = ("--batch-size", "1"), ("--batch-size", "2")  # a token costs a softmax over 151,646 words
REPLIES = ("--train-languages", "sw,zh")
TWINS = ("--reference", "zh", "--train-languages", "sw")
METHODS = {
    "dpo": (*ONE, *REPLIES),
    "kto": (*TWO, *REPLIES),
    "sft": (*ONE, *REPLIES),
    "lasa": (*TWO, *REPLIES, "--layer", "1"),
    "mpo": (*ONE, *TWINS),
    "mlc": (*ONE, *TWINS, "--set", "projection=8"),
    "msd": ONE,
}


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def models(shared_dir, tmp_path_factory) -> dict[str, Path]:
    """Model directories as they come from the hub: configuration, weights, tokenizer, template."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(shared_dir / "weights" / "qwen2_tokenizer")
    folders = {}
    for family in FAMILIES:
        folders[family] = tmp_path_factory.mktemp("models") / family
        model = build_model(family, n_layers=2, vocab_size=len(tokenizer), hidden_size=16)
        model.config.max_position_embeddings = 2048
        model.save_pretrained(folders[family])
        tokenizer.save_pretrained(folders[family])
    return folders


@pytest.fixture(scope="module")
def prompts(tmp_path_factory) -> Path:
    rows = [
        {"meaning_id": f"m{i}", "language": tag, "text": text.format(thing), "harmful": i % 2 == 0}
        for i, thing in enumerate(THINGS)
        for tag, text in TEXTS.items()
    ]
    path = tmp_path_factory.mktemp("prompts") / "prompts.csv"
    pd.DataFrame(rows).to_csv(path, index=False)
    return path


@pytest.fixture(scope="module")
def public(shared_dir) -> Path:
    return shared_dir / "data" / "mpo_multilingual_preference" / "gemma_mpo_data.json"


@pytest.fixture(scope="module")
def short(public, tmp_path_factory) -> Path:
    """The shortest of the public pairs that are in Swahili and Chinese, in the file's own form: a few steps need no more."""
    whole = load_preferences(public, known_languages="sw,zh")
    assert whole.provenance["guard"]["complying"] == 9 and len(whole) == 179  # under the limit in these two languages
    kept = whole.frame
    size = kept["prompt"].str.len() + kept["chosen"].str.len() + kept["rejected"].str.len()
    both = size.groupby(kept["meaning_id"]).agg(["sum", "count"]).query("count == 2")["sum"].nsmallest(4).index
    asked = set(kept.loc[kept["meaning_id"].isin(both), "prompt"])
    rows = json.loads(public.read_text(encoding="utf-8"))
    some = [row for row in rows if row["target_conversations"][0]["value"].strip() in asked]
    path = tmp_path_factory.mktemp("pairs") / "short.json"
    path.write_text(json.dumps(some), encoding="utf-8")
    return path


@pytest.fixture
def repair(monkeypatch, capsys):
    """Call ``workbench repair`` without its report."""
    monkeypatch.setattr("workbench.cli_repair.finish", lambda folder: None)

    def call(*argv) -> tuple[int, str]:
        code = called("repair", *argv)
        return code, capsys.readouterr().err

    return call


def called(*argv) -> int:
    with pytest.raises(SystemExit) as stop:
        cli.main([str(part) for part in argv])
    return int(stop.value.code or 0)


# one of the families each; tests/alignment/test_trainers.py trains both by every method
@pytest.mark.parametrize(
    ("family", "method"),
    [
        ("qwen2", "dpo"),
        ("gemma2", "kto"),
        ("gemma2", "sft"),
        ("qwen2", "lasa"),
        ("gemma2", "mpo"),
        ("qwen2", "mlc"),
        ("qwen2", "msd"),
        ("gemma2", "msd"),
    ],
)
def test_a_method_repairs_a_real_kind_of_model_and_what_it_writes_is_a_model(repair, models, prompts, short, tmp_path, family, method):
    options = () if method == "msd" else ("--preferences", short)
    out = tmp_path / "run"
    code, said = repair(method, models[family], "--prompts", prompts, *FEW, *options, *METHODS[method], "--out", out)
    run = Run(out)
    if method == "msd":  # an untrained teacher refuses nothing, and says so before a step is made
        assert code == 2 and "nothing to distil" in said and "it refuses 0 as its own teacher" in said
        assert not (out / "model").exists() and len(run.result("flip_rates").table) == 1
        return
    assert code == 0, said
    history = run.result("training_curve").table
    losses = history.loc[history["statistic"] == "loss", "value"]
    assert len(losses) and np.isfinite(losses).all()
    repaired, start = load_model(out / "model"), load_model(models[family], check=False)
    assert repaired.fingerprint != start.fingerprint and repaired.model.config.model_type == start.model.config.model_type
    part = load_prompts(prompts).select(languages=["sw"]).limit(2, seed=0)
    assert len(generate(repaired, part, max_new_tokens=3, progress=False)) == len(part)


def test_an_adapter_is_trained_and_other_commands_take_the_model_it_is_merged_into(repair, models, prompts, short, tmp_path):
    out = tmp_path / "run"
    options = ("--preferences", short, *METHODS["dpo"], "--lora-rank", "2", "--out", out)
    code, said = repair("dpo", models["gemma2"], "--prompts", prompts, *FEW, *options)
    assert code == 0, said
    assert (out / "model" / "adapter" / "adapter_model.safetensors").is_file()
    left_out = Run(out).result("dropped").table
    assert "language not asked for" in set(left_out["reason"])  # the English side of every row
    assert called("capture", out / "model", "--prompts", prompts, "--languages", "sw,zh", "--store", tmp_path / "acts.zarr") == 0
    assert (tmp_path / "acts.zarr").is_dir()
