"""The methods: each learns what it says, from the rows it is given, and leaves its start alone."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest
import torch

from tests.support.toy_pairs import toy_pairs, toy_queries
from tests.support.toy_training import toy_config
from tests.tiny import build_model
from workbench.alignment.conditioning import Condition
from workbench.alignment.config import LoraOptions
from workbench.alignment.distillation import Query
from workbench.alignment.msd import MSD
from workbench.alignment.preference import PreferenceSet, load_preferences
from workbench.alignment.rows import pairs_of, rows_hash, singles_of
from workbench.alignment.sequences import Example
from workbench.alignment.trainers import DPO, KTO, LASA, METHODS, MLC, MPO, SFT, method_of, name_of, train
from workbench.errors import DataError
from workbench.models.load import load_model

SENTENCE = Condition("Hello there.", rate_safety=1.0)
ALL = [SFT(), DPO(), KTO(), LASA(condition=SENTENCE), MSD(max_new_tokens=4), MPO(), MLC(projection=8)]


def config(**options):
    return toy_config(**{"max_steps": 3, "max_length": 128, "batch_size": 4, "save_every": 50, "learning_rate": 3e-3, **options})


def data_for(method):
    return toy_queries() if isinstance(method, MSD) else toy_pairs()


def change(trained, chat) -> float:
    return max(float((a - b).abs().max()) for a, b in zip(trained.model.parameters(), chat.model.parameters(), strict=True))


def losses(trained) -> np.ndarray:
    return trained.history.query("statistic == 'loss'")["value"].to_numpy()


@pytest.mark.parametrize("lora", [None, LoraOptions(rank=2)], ids=["full", "adapter"])
@pytest.mark.parametrize("method", ALL, ids=name_of)
def test_every_method_trains_in_silence_and_leaves_its_start_alone(tiny_model, tmp_path, capfd, method, lora):
    chat = tiny_model("llama", n_layers=2)
    before = chat.fingerprint
    trained = train(method, chat, data_for(method), config(lora=lora), tmp_path / "run", progress=False)
    assert chat.fingerprint == before and "forward" not in chat.model.__dict__ and not chat.model.training
    assert change(trained, chat) > 1e-5 and "forward" not in trained.model.__dict__
    assert len(losses(trained)) == 3 and np.isfinite(trained.history["value"]).all()
    assert trained.tokens > 0 and trained.steps == 3
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("bf16", [False, True], ids=["float32", "bfloat16"])
def test_preference_losses_begin_where_policy_and_reference_agree(tiny_model, tmp_path, bf16):
    chat = tiny_model("llama", n_layers=2)
    first = {}
    for method in (DPO(), KTO(), LASA(condition=SENTENCE), MPO()):
        trained = train(method, chat, toy_pairs(), config(max_steps=1, bf16=bf16), tmp_path / name_of(method), progress=False)
        first[name_of(method)] = trained.history.set_index("statistic")["value"]
    assert first["dpo"]["loss"] == pytest.approx(np.log(2), abs=1e-6)
    assert first["kto"]["loss"] == pytest.approx(0.5, abs=1e-6) and first["lasa"]["loss"] == pytest.approx(0.5, abs=1e-6)
    assert first["kto"]["kl"] == 0 and first["lasa"]["kl"] == 0
    assert first["mpo"]["state_term"] == 0 and first["mpo"]["gap_term"] == pytest.approx(first["mpo"]["loss"])


def test_conditioned_kto_without_a_sentence_is_the_kto_of_trl(tiny_model, tmp_path):
    chat = tiny_model("llama", n_layers=2)
    never = LASA(condition=Condition("Hello there.", rate_safety=0.0), undesirable_weight=1.5)
    ours = train(never, chat, toy_pairs(), config(max_steps=6), tmp_path / "ours", progress=False)
    theirs = train(KTO(undesirable_weight=1.5), chat, toy_pairs(), config(max_steps=6), tmp_path / "theirs", progress=False)
    np.testing.assert_allclose(losses(ours), losses(theirs), atol=1e-5)
    for a, b in zip(ours.model.parameters(), theirs.model.parameters(), strict=True):
        torch.testing.assert_close(a, b, atol=2e-4, rtol=0)  # AdamW turns rounding of near-zero gradients into steps
    assert change(theirs, chat) > 5e-3
    told = LASA(condition=SENTENCE, undesirable_weight=1.5)
    with_sentence = train(told, chat, toy_pairs(), config(max_steps=6), tmp_path / "told", progress=False)
    assert np.abs(losses(with_sentence) - losses(theirs)).max() > 1e-3


def test_half_of_the_safety_rows_and_no_utility_row_carry_the_sentence(tiny_model):
    from workbench.alignment.lasa_trainer import job

    chat, data = tiny_model("llama", n_layers=2), toy_pairs(60)
    made = {rate: _rows_of(job(LASA(condition=Condition("Hello there.", rate_safety=rate)), chat, data, config(), "unused")) for rate in (0.5, 1.0)}
    sentence = SENTENCE.ids(chat)
    assert {row.example.insert_ids for row in made[0.5]} == {(), sentence}
    share = np.mean([row.example.insert_ids == sentence for row in made[1.0]])
    assert share == 0.5  # all safety rows, and half of the rows are of that source
    assert 0.35 < np.mean([row.example.insert_ids == sentence for row in made[0.5]]) / share < 0.65


def _rows_of(job):
    """What a job's trainer will read."""
    return next(cell.cell_contents for cell in job.build.__closure__ if isinstance(cell.cell_contents, list))


def test_mismatched_pairs_keep_prompt_and_sentence_take_the_completion_before_and_fit_the_longest_row():
    from workbench.alignment.lasa_trainer import rotated

    rows = [Example((1, 2), (9,), (3, 4)), Example((5,), (), (6, 7, 8)), Example((5, 5, 5, 5), (), (0,))]
    assert rotated(rows, 100) == [Example((1, 2), (9,), (0,)), Example((5,), (), (3, 4)), Example((5, 5, 5, 5), (), (6, 7, 8))]
    assert [len(row) for row in rotated(rows, 5)] == [4, 3, 5]


@pytest.mark.parametrize("method", [KTO(), LASA(condition=SENTENCE)], ids=name_of)
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_size": 1, "accumulation": 8}, r"batch_size=1\. Expected at least 2.*batch_size=2 with accumulation=4"),
        ({"order": "shuffled"}, "fixed neighbours"),
        ({"batch_size": 64}, "48 rows and batch_size=64"),
    ],
)
def test_the_kto_family_refuses_what_breaks_its_mismatched_pairs(tiny_model, tmp_path, method, options, message):
    with pytest.raises(DataError, match=message):
        train(method, tiny_model("llama", n_layers=2), toy_pairs(), config(**options), tmp_path / "run", progress=False)
    assert not (tmp_path / "run").exists()


def test_kto_reads_its_rows_in_the_fixed_order_in_which_its_pairs_were_made(tiny_model, tmp_path):
    from workbench.alignment.baselines import job

    chat = tiny_model("llama", n_layers=2)
    made = job(KTO(), chat, toy_pairs(), config(batch_size=4), tmp_path)
    trainer = made.build(build_model("llama", n_layers=2, vocab_size=len(chat.tokenizer)).requires_grad_(True), None)
    batches = list(trainer.get_train_dataloader())
    singles = singles_of(chat, toy_pairs(), config())
    assert made.smallest_batch == 2 and len(batches) == len(singles) // 4
    for number, batch in enumerate(batches):
        for i, row in enumerate(singles[4 * number : 4 * number + 4]):
            ids = [int(t) for t, kept in zip(batch["KL_input_ids"][i], batch["KL_attention_mask"][i], strict=True) if kept]
            before = singles[4 * number + (i - 1) % 4]
            assert tuple(ids) == row.example.opening_ids + before.example.completion_ids


def test_only_the_fit_split_is_learned(tiny_model, tmp_path):
    chat, frame = tiny_model("llama", n_layers=2), toy_pairs().frame
    frame.loc[frame["meaning_id"].isin(["m6", "m7"]), "split"] = "select"
    some = PreferenceSet(frame)
    assert len(pairs_of(chat, some, config())) == 18 and len(singles_of(chat, some, config())) == 36
    alone = PreferenceSet(frame[frame["split"] == "fit"])
    assert rows_hash(pairs_of(chat, some, config())) == rows_hash(pairs_of(chat, alone, config()))
    assert rows_hash(pairs_of(chat, some, config(seed=5))) != rows_hash(pairs_of(chat, some, config()))  # another order is another training


def test_sft_learns_the_chosen_replies_and_not_the_prompts(tiny_model, tmp_path):
    from workbench.alignment.baselines import _sft_table

    chat = tiny_model("llama", n_layers=2)
    for row, pair in zip(_sft_table(pairs_of(chat, toy_pairs(), config())), pairs_of(chat, toy_pairs(), config()), strict=True):
        learned = [token for token in row["labels"] if token != -100]
        assert tuple(learned) == pair.chosen.completion_ids and row["labels"][: len(pair.chosen.prompt_ids)] == [-100] * len(pair.chosen.prompt_ids)
    trained = train("sft", chat, toy_pairs(), config(max_steps=30, learning_rate=1e-2), tmp_path / "run", progress=False)
    assert losses(trained)[-1] < 0.3 * losses(trained)[0]


def test_on_policy_replies_depend_on_the_seed_and_not_on_what_was_drawn_before(tiny_model, tmp_path):
    chat = tiny_model("llama", n_layers=2)

    def lengths(seed, monitor=None, on_policy=True):
        options = MSD(max_new_tokens=6, on_policy=on_policy)
        made = train(options, chat, toy_queries(), config(seed=seed, eval_every=1), tmp_path / "run", monitor, progress=False)
        return made, list(made.history.query("statistic == 'divergence'")["value"])

    def noisy(step, model):
        torch.rand(5)
        return []

    (one, first), (two, second), (_, third) = lengths(1), lengths(1, noisy), lengths(2)
    assert first == second and first != third
    assert all(torch.equal(a, b) for a, b in zip(one.model.parameters(), two.model.parameters(), strict=True))
    assert first != lengths(1, on_policy=False)[1]


@pytest.mark.parametrize("lora", [None, LoraOptions(rank=2)], ids=["full", "adapter"])
@pytest.mark.parametrize("teacher", ["frozen", "ema", "live"])
def test_teachers_are_the_weights_they_say(tiny_model, tmp_path, teacher, lora):
    from workbench.alignment.msd_trainer import Distillation

    chat, ids, seen = tiny_model("llama", n_layers=2), torch.arange(5, 15).reshape(1, 10), []
    original = Distillation.loss_of

    def spying(self, model, rows):
        policy = self.accelerator.unwrap_model(self.model)
        with torch.no_grad():
            student = policy(ids).logits
        with self.teacher() as taught:
            seen.append((taught(ids).logits, student))
        return original(self, model, rows)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Distillation, "loss_of", spying)
        options = MSD(max_new_tokens=3, teacher=teacher, decay=0.5)
        train(options, chat, toy_queries(), config(lora=lora, learning_rate=1e-2, warmup=0.0), tmp_path / "run", progress=False)
    with torch.no_grad():
        start = chat.model(ids).logits
    teachers, students = zip(*seen, strict=True)
    assert torch.equal(students[0], start) and not torch.equal(students[2], start)
    if teacher == "frozen":
        assert all(torch.equal(logits, start) for logits in teachers)
    elif teacher == "live":
        assert all(torch.equal(a, b) for a, b in seen)
    else:  # between the start and the student, and moving
        assert torch.equal(teachers[0], start) and not torch.equal(teachers[2], start) and not torch.equal(*seen[2])


def test_a_query_without_room_for_its_reply_is_refused_by_name(tiny_model, tmp_path):
    queries = [*toy_queries(), Query("q-long", "fr", True, tuple(range(10, 130)), (5,))]
    with pytest.raises(DataError, match=r"q-long takes 124 tokens .* up to 4; expected at most 100"):
        train(MSD(max_new_tokens=4), tiny_model("llama", n_layers=2), queries, config(max_length=100), tmp_path / "run", progress=False)
    with pytest.raises(DataError, match="no query"):
        train("msd", tiny_model("llama", n_layers=2), [], config(), tmp_path / "run", progress=False)


def test_mpo_moves_the_gap_of_other_languages_towards_the_reference_and_mlc_joins_translations(tiny_model, tmp_path):
    chat = tiny_model("llama", n_layers=2)
    gaps = train(MPO(), chat, toy_pairs(), config(max_steps=30), tmp_path / "mpo", progress=False).history.query("statistic == 'gap_term'")["value"]
    assert gaps.iloc[-5:].mean() < 0.5 * gaps.iloc[:5].mean()
    joined = train(MLC(weight=5.0), chat, toy_pairs(), config(max_steps=30), tmp_path / "mlc", progress=False).history
    term = joined.query("statistic == 'consistency_term'")["value"]
    assert term.iloc[-5:].mean() < 0.5 * term.iloc[:5].mean()
    assert joined.query("statistic == 'spread'")["value"].between(0, 1).all()


def test_mlc_without_parallel_pairs_is_refused(tiny_model, tmp_path):
    alone = toy_pairs().select(languages=["en"])
    with pytest.raises(DataError, match="parallel pairs"):
        train(MLC(), tiny_model("llama", n_layers=2), alone, config(), tmp_path / "run", progress=False)


def test_methods_have_names_and_unknown_ones_are_refused():
    assert [name_of(method_of(name)) for name in METHODS] == list(METHODS)
    with pytest.raises(DataError, match="Did you mean 'lasa'"):
        method_of("laso")
    with pytest.raises(DataError, match="LoraOptions is no training"):
        method_of(LoraOptions())


@pytest.mark.slow
@pytest.mark.parametrize("family", ["qwen2", "gemma2"])
def test_every_method_takes_public_preference_pairs_with_a_real_tokenizer(shared_dir, tmp_path, family):
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(shared_dir / "weights" / "qwen2_tokenizer")
    model = build_model(family, n_layers=2, vocab_size=len(tokenizer), hidden_size=16)
    chat = load_model(model, tokenizer=tokenizer, check=False)
    rows = json.loads((shared_dir / "data" / "mpo_multilingual_preference" / "llama_mpo_data.json").read_text(encoding="utf-8"))
    (tmp_path / "some.json").write_text(json.dumps(rows[::12]), encoding="utf-8")
    pairs = load_preferences(tmp_path / "some.json", max_complying=0.5)
    frame = pairs.frame
    short = frame.groupby("meaning_id")["prompt"].transform(lambda texts: max(map(len, texts))) < 160
    pairs = PreferenceSet(frame[short], max_complying=0.5)
    assert "en" in pairs.languages and len(pairs.languages) > 2
    prompts = pairs.select(split="fit").frame
    ids = [t.ids for t in chat.tokenise(list(prompts["prompt"]), names=list(prompts["pair_id"]))]
    queries = [Query(str(n), str(tag), True, row, row[1:]) for n, tag, row in zip(prompts["pair_id"], prompts["language"], ids, strict=True)]
    settings = config(batch_size=2, max_steps=2, max_length=160, learning_rate=1e-3, gradient_checkpointing=family == "qwen2")
    for method in [SFT(), DPO(), KTO(), LASA(), MSD(max_new_tokens=4), MPO(), MLC()]:
        data = [query for query in queries if len(query.prompt_ids) < 150] if isinstance(method, MSD) else pairs
        trained = train(method, chat, data, settings, tmp_path / name_of(method), progress=False)
        assert np.isfinite(trained.history["value"]).all() and pd.Series(losses(trained)).abs().gt(0).all()
        assert change(trained, chat) > 1e-6, name_of(method)
