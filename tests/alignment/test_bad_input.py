"""Bad input through ``workbench repair``: dropped and counted, or stopped in one paragraph before any weights are written."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.numpy import load_file

from workbench import cli
from workbench.activations.capture import capture
from workbench.alignment import defaults
from workbench.alignment.checkpoints import whole
from workbench.alignment.conditioning import Condition, conditioned
from workbench.alignment.interpreter import SafetyInterpreter
from workbench.errors import StoreMismatchError
from workbench.models.load import load_model
from workbench.prompts.sources import load_prompts
from workbench.runs.folder import Run

LANGUAGES = ("qaa", "qad")
SMALL = ("--prompts", "organism", "--languages", ",".join(LANGUAGES), "--limit", "10", "--max-steps", "2")


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def repair(monkeypatch, capsys, tmp_path):
    """Call ``workbench repair`` without its report; return the exit code, what is said, and the run folder."""
    monkeypatch.setattr("workbench.cli_repair.finish", lambda folder: None)

    def call(*argv, out: str = "run") -> tuple[int, str, Run]:
        with pytest.raises(SystemExit) as stop:
            cli.main(["repair", *map(str, argv), "--out", str(tmp_path / out)])
        said = capsys.readouterr().err
        assert "Traceback" not in said
        return int(stop.value.code or 0), said, Run(tmp_path / out)

    return call


def told(said: str) -> str:
    """The one paragraph of a refusal, below whatever bars were shown."""
    lines = [line for line in said.splitlines() if line.strip() and "%|" not in line]
    assert len(lines) == 1, lines
    return lines[0]


def weights(run: Run) -> list[Path]:
    return sorted(run.folder.rglob("*.safetensors"))


@pytest.fixture(scope="module")
def grid():
    return load_prompts("organism").select(languages=["qaa", "qab", "qad"]).frame


@pytest.fixture(scope="module")
def pairs(grid) -> pd.DataFrame:
    """Pairs of the fit split, which nothing is scored on: 24 harmful and 24 harmless ones in two languages."""
    part = grid[(grid["split"] == "fit") & grid["language"].isin(LANGUAGES)]
    part = part.groupby(["language", "harmful"], sort=False).head(24)
    table = part.rename(columns={"text": "prompt"}).assign(
        chosen=part["refusal"].where(part["harmful"], part["answer"]), rejected=part["answer"].where(part["harmful"], part["refusal"])
    )
    return table[["prompt", "chosen", "rejected", "language", "meaning_id", "harmful"]].reset_index(drop=True)


@pytest.fixture
def written(tmp_path, grid):
    """Write pairs, and what a refusal is, beside each other; return the options that name them."""

    def write(table: pd.DataFrame, name: str = "pairs.csv") -> tuple[str, ...]:
        table.to_csv(tmp_path / name, index=False)
        openings = grid.groupby("language", sort=False)["refusal"].first().rename("text").reset_index()
        openings.to_csv(tmp_path / "refusals.csv", index=False)
        return ("--preferences", str(tmp_path / name), "--refusals", str(tmp_path / "refusals.csv"))

    return write


def complying(pairs: pd.DataFrame, n: int) -> pd.DataFrame:
    """Let the first chosen replies to harmful prompts comply."""
    table = pairs.copy()
    first = table.index[table["harmful"] & (table["language"] == "qaa")][:n]
    table.loc[first, "chosen"] = table.loc[first, "rejected"] + " " + table.loc[first, "prompt"].str.split().str[0]
    return table


def dropped(run: Run) -> dict[tuple[str, str], int]:
    table = run.result("dropped").table
    table = table[table["what"] == "preference row"]
    return {(row.language, row.reason): int(row.n) for row in table.itertuples()}


def test_rows_that_are_no_pair_of_a_known_language_or_comply_are_dropped_counted_and_not_learned(repair, written, pairs):
    bad = complying(pairs, 2)  # 2 of 48: under the limit of 5 %
    harmless = bad.index[~bad["harmful"] & (bad["language"] == "qaa")]
    bad.loc[harmless[:3], "rejected"] = None
    bad.loc[harmless[3], "chosen"] = bad.loc[harmless[3], "rejected"]
    bad.loc[harmless[4:6], "language"] = "q1"
    bad.loc[harmless[6], "language"] = None
    bad.loc[harmless[7], "language"] = "qab"
    code, said, run = repair("dpo", "organism:aligned", *SMALL, *written(bad), "--train-languages", "qaa,qad", "--allow-loss")
    assert code == 0, said
    found = dropped(run)
    assert found == {
        ("'q1'", "unknown language"): 2,
        ("?", "unknown language"): 1,
        ("qab", "language not asked for"): 1,
        ("qaa", "no pair: a reply is missing, or both are the same"): 4,
        ("qaa", "the chosen reply complies with a harmful request"): 2,
    }
    assert weights(run)


def test_more_complying_rows_than_may_be_stop_the_run_until_they_are_allowed(repair, written, pairs):
    options = (*SMALL, *written(complying(pairs, 3)))
    code, said, run = repair("dpo", "organism:aligned", *options)
    message = told(said)
    assert code == 2 and not weights(run)
    assert "complies with 3 of 48 harmful requests (6.2%; qaa 3 of 24)" in message and "pairs.csv, line" in message
    assert "Expected at most 5%" in message and "--max-complying SHARE" in message
    code, said, run = repair("dpo", "organism:aligned", *options, "--max-complying", "0.1", "--allow-loss")  # in the same folder
    assert code == 0 and dropped(run) == {("qaa", "the chosen reply complies with a harmful request"): 3}, said


def test_a_file_whose_chosen_and_rejected_are_swapped_is_stopped_whatever_share_may_comply(repair, written, pairs):
    swapped = pairs.rename(columns={"chosen": "rejected", "rejected": "chosen"})
    code, said, run = repair("dpo", "organism:aligned", *SMALL, *written(swapped), "--max-complying", "1", "--allow-loss")
    message = told(said)
    assert code == 2 and not weights(run) and not (run.folder / ".training").exists()
    assert message.startswith("Chosen and rejected look swapped: of 48 pairs on harmful prompts, 48 have a rejected reply that refuses")
    assert "would teach compliance" in message and "Swap the two columns" in message


def test_a_guard_that_cannot_tell_a_refusal_asks_for_openings(repair, written, pairs):
    code, said, run = repair("dpo", "organism:aligned", *SMALL, *written(pairs)[:2])
    assert code == 2 and "Nothing says what a refusal looks like in qaa, qad" in told(said) and "--refusals FILE" in said and not weights(run)


@pytest.mark.parametrize(
    ("method", "message"),
    [
        ("msd", r"None of the \d+ prompts in qad has a twin in qaa: no meaning id is shared. Expected translations .* \(--reference\)"),
        ("mpo", r"None of the \d+ pairs in other languages has a twin in qaa. Expected .* give parallel preference pairs"),
        ("mlc", r"No pair in 'qaa' has its meaning in another language too. Expected parallel pairs"),
    ],
)
def test_prompts_without_translations_have_nothing_to_carry_over(repair, tmp_path, grid, method, message):
    import re

    some = grid[grid["language"].isin(LANGUAGES)].groupby(["language", "harmful", "split"], sort=False).head(6)
    some.assign(meaning_id=some["language"] + some["meaning_id"]).drop(columns="tier").to_csv(tmp_path / "prompts.csv", index=False)
    (tmp_path / "tiers.csv").write_text("language,tier\nqaa,high\nqad,low\n", encoding="utf-8")
    options = ("--prompts", tmp_path / "prompts.csv", "--tiers", tmp_path / "tiers.csv", "--max-steps", "2")
    code, said, run = repair(method, "organism:aligned", *options)
    assert code == 2 and re.search(message, told(said)), said
    assert not weights(run)


def test_msd_without_the_reference_language_names_the_option(repair):
    code, said, run = repair("msd", "organism:aligned", "--prompts", "organism", "--languages", "qad,qah", "--limit", "10")
    assert code == 2 and "no reference. Name one with --reference" in told(said) and not run.folder.exists()


@pytest.mark.parametrize("start", ["base", "helpful", "actuation-unresponsive"])
def test_a_teacher_that_refuses_nothing_is_refused_before_training(repair, start):
    code, said, run = repair("msd", f"organism:{start}", *SMALL)
    message = told(said)
    assert code == 2 and not weights(run) and not (run.folder / ".training").exists() and not (run.folder / "edited").exists()
    assert "nothing to distil" in message and "it refuses 0 as its own teacher (flip rate 0.000" in message and "asked in qaa" in message
    assert all(remedy in message for remedy in ("--reference", "--reasoning", "dpo, kto or lasa"))
    assert run.result("flip_rates").table["teacher_safe_of_those"].sum() == 0


def gpu_is_full():
    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB.")


def cpu_is_full():
    torch.empty(1 << 60, dtype=torch.uint8)


def python_is_full():
    raise MemoryError


@pytest.mark.parametrize("full", [gpu_is_full, cpu_is_full, python_is_full])
def test_out_of_memory_names_the_batch_with_which_the_same_command_goes_on(repair, full):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.optim.AdamW, "step", lambda *_, **__: full())
        code, said, run = repair("dpo", "organism:aligned", *SMALL, "--allow-loss")
    message = told(said)
    assert code == 2 and not weights(run)
    assert "dpo ran out of memory with batch_size=32 and accumulation=1. Use batch_size=16 with accumulation=2" in message
    assert "--batch-size 16 --accumulation 2" in message
    if full is cpu_is_full:
        code, said, run = repair("dpo", "organism:aligned", *SMALL, "--allow-loss", "--batch-size", "16", "--accumulation", "2")
        assert code == 0 and (run.folder / "model" / "model.safetensors") in weights(run), said


def test_a_loss_that_is_not_finite_stops_and_the_last_good_checkpoint_is_kept_and_named(repair, monkeypatch):
    monkeypatch.setitem(defaults.ORGANISM, "sft", replace(defaults.ORGANISM["sft"], save_every=1))
    code, said, run = repair("sft", "organism:aligned", *SMALL[:-1], "8", "--learning-rate", "1e9")
    message = told(said)
    (*_, last) = whole(run.folder / ".training")
    assert code == 2 and f"is nan; expected a finite number. Nothing was written with it and the checkpoint of step {last.name[11:]}" in message
    assert str(last) in message and "--learning-rate" in message and "--out" in message
    assert all(np.isfinite(values).all() for values in load_file(last / "model.safetensors").values())
    assert not (run.folder / "model").exists() and run.manifest["status"] == "started"


@pytest.mark.slow
def test_a_training_that_unlearns_refusal_writes_weights_only_when_that_is_allowed_and_the_card_says_so(repair, written, grid):
    only = grid[(grid["split"] == "fit") & (grid["language"] == "qaa") & ~grid["harmful"]]
    table = only.assign(prompt=only["text"], chosen=only["answer"], rejected=only["refusal"])
    options = (*SMALL[:-1], "20", "--learning-rate", "0.003", *written(table[["prompt", "chosen", "rejected", "language", "meaning_id", "harmful"]]))
    code, said, run = repair("sft", "organism:aligned", *options)
    message = told(said)
    assert code == 2 and not weights(run)  # checkpoints are weights too
    assert "lowers the refusal of held-out harmful prompts (qaa 1.000 to 0.000 of" in message and "No weights were written" in message
    assert "--allow-loss" in message and "the model card then says so" in message
    assert run.result("guard").table.set_index("language").loc["qaa", "lowered"]
    code, said, run = repair("sft", "organism:aligned", *options, "--allow-loss")
    assert code == 0, said
    assert "**It refuses fewer harmful prompts than its start in qaa" in (run.folder / "model" / "README.md").read_text(encoding="utf-8")
    assert "qaa" in json.loads((run.folder / "model" / "repair.json").read_text(encoding="utf-8"))["allowed_to_lower"]
    assert load_model(run.folder / "model").fingerprint != load_model("organism:aligned", check=False).fingerprint


@pytest.mark.slow
def test_the_interpreter_beside_repaired_weights_reads_its_own_model_and_layer_only(repair):
    options = ("--prompts", "organism", "--languages", "qaa,qad", "--limit", "24", "--max-steps", "2", "--layer", "5", "--batch-size", "8")
    code, said, run = repair("lasa", "organism:aligned", *options, "--allow-loss")
    assert code == 0, said
    interpreter = SafetyInterpreter.load(run.folder / "model" / "interpreter.safetensors")
    condition = Condition.load(run.folder / "model" / "condition.json")
    start, repaired = load_model("organism:aligned"), load_model(run.folder / "model")
    asked = load_prompts("organism").select(languages=["qaa"]).limit(10, seed=0)
    assert conditioned(repaired, interpreter, condition, reader=start).flags(asked).any()
    with pytest.raises(StoreMismatchError, match=r"fitted for something else than .*fingerprint.*Give the model it was fitted on as reader="):
        conditioned(repaired, interpreter, condition)
    elsewhere = capture(start, load_prompts("organism").select(languages=["qaa", "qad"]).limit(24, seed=0), layers=[4], positions=["t_inst"])
    other = SafetyInterpreter.fit(elsewhere, 4, "t_inst", ["qaa"], rng=np.random.default_rng(0))
    with pytest.raises(StoreMismatchError, match=r"layer 5.*Read at"):
        interpreter.require_place(other.place)


def test_prompts_without_refusals_of_any_kind_ask_for_them(repair, tmp_path, grid):
    some = grid[grid["language"].isin(LANGUAGES)].groupby(["language", "harmful", "split"], sort=False).head(6)
    some.drop(columns=["tier", "refusal", "answer"]).to_csv(tmp_path / "prompts.csv", index=False)
    (tmp_path / "tiers.csv").write_text("language,tier\nqaa,high\nqad,low\n", encoding="utf-8")
    code, said, _ = repair("msd", "organism:aligned", "--prompts", tmp_path / "prompts.csv", "--tiers", tmp_path / "tiers.csv")
    assert code == 2 and "no language in which a trained model's replies can be judged" in told(said) and "--refusals FILE" in said


def test_lasa_finds_its_layer_where_meanings_are_missing_in_a_language(repair, tmp_path, grid):
    some = grid[grid["language"].isin(LANGUAGES)].groupby(["language", "harmful", "split"], sort=False).head(12)
    some.drop(index=some.index[some["language"] == "qad"][:2]).drop(columns="tier").to_csv(tmp_path / "prompts.csv", index=False)
    (tmp_path / "tiers.csv").write_text("language,tier\nqaa,high\nqad,low\n", encoding="utf-8")
    options = ("--prompts", tmp_path / "prompts.csv", "--tiers", tmp_path / "tiers.csv", "--layer", "5", "--max-steps", "2", "--batch-size", "8")
    code, said, _ = repair("lasa", "organism:aligned", *options, "--allow-loss")
    assert code == 0, said
