"""The training loop: what it leaves alone, what it refuses, what it keeps."""

from __future__ import annotations

import random

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import load_file

from tests.support.toy_training import toy_config, toy_train
from workbench.alignment.config import LoraOptions, TrainingConfig
from workbench.errors import DataError, StoreMismatchError, TrainingError
from workbench.models.load import load_model


def weights(model) -> dict[str, torch.Tensor]:
    return {key: value.clone() for key, value in model.state_dict().items()}


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


def test_training_lowers_the_loss_and_leaves_the_start_and_the_global_generators_alone(tiny_model, tmp_path, capfd):
    chat = tiny_model("llama", n_layers=2)
    before, state = weights(chat.model), (random.getstate(), torch.get_rng_state())
    trained = toy_train(chat, tmp_path / "run", toy_config(max_steps=40, save_every=50))
    assert same(weights(chat.model), before) and not any(p.requires_grad for p in chat.model.parameters()) and not chat.model.training
    assert random.getstate() == state[0] and torch.equal(torch.get_rng_state(), state[1])
    assert not same(weights(trained.model), before) and type(trained.model) is type(chat.model)
    assert not trained.model.training and not any(p.requires_grad for p in trained.model.parameters())
    assert trained.model.config.use_cache == chat.model.config.use_cache and "forward" not in trained.model.__dict__
    loss = trained.history.query("statistic == 'loss'").set_index("step")["value"]
    assert list(loss.index) == list(range(1, 41)) and loss[35:].mean() < 0.8 * loss[1]
    assert trained.steps == 40 and trained.tokens == 40 * 12 and trained.seconds > 0
    assert trained.trained_parameters == sum(p.numel() for p in chat.model.parameters())
    assert set(trained.history["statistic"]) == {"loss", "gradient_norm", "learning_rate", "kl"}
    assert capfd.readouterr() == ("", "")
    assert not (tmp_path / "run").exists()  # done: no checkpoint left


def test_accumulated_passes_give_the_weights_of_one_large_pass(tiny_model, tmp_path):
    chat = tiny_model("llama", n_layers=2)
    large = toy_train(chat, tmp_path / "large", toy_config(max_steps=3, batch_size=4, order="sequential"))
    split = toy_train(chat, tmp_path / "split", toy_config(max_steps=3, batch_size=2, accumulation=2, order="sequential"))
    # the toy's noise differs by a percent; AdamW's steps do not follow the size of the gradient
    gaps = [(a - b).abs().max() for a, b in zip(large.model.parameters(), split.model.parameters(), strict=True)]
    assert max(gaps) < 0.02
    losses = [run.history.query("statistic == 'loss'")["value"].to_numpy() for run in (large, split)]
    np.testing.assert_allclose(*losses, rtol=0.05)


def test_the_monitor_sees_the_start_each_interval_and_the_end_without_changing_the_training(tiny_model, tmp_path):
    chat = tiny_model("llama", n_layers=2)
    seen = []

    def monitor(step, model):
        assert not model.training and not torch.is_grad_enabled() and model.config.use_cache
        torch.rand(7)  # draws from the global generator must not reach the training
        seen.append(step)
        return [{"statistic": "answer_accuracy", "language": "aa", "value": step / 10}]

    watched = toy_train(chat, tmp_path / "a", toy_config(max_steps=8, eval_every=3), monitor=monitor)
    alone = toy_train(chat, tmp_path / "b", toy_config(max_steps=8, eval_every=3))
    assert seen == [0, 3, 6, 8] and same(weights(watched.model), weights(alone.model))
    rows = watched.history.query("statistic == 'answer_accuracy'")
    assert list(rows["step"]) == seen and list(rows["value"]) == [0, 0.3, 0.6, 0.8] and set(rows["language"]) == {"aa"}


@pytest.mark.parametrize("bad", ["loss", "gradient"])
def test_a_number_that_is_not_finite_stops_the_training_and_the_last_good_checkpoint_is_kept(tiny_model, tmp_path, bad):
    chat = tiny_model("llama", n_layers=2)

    def fault(step, loss):
        if step < 6:
            return loss
        # sqrt has an infinite slope at 0: a finite loss with gradients that are not
        return loss * float("nan") if bad == "loss" else loss + torch.sqrt(0.0 * loss)

    with pytest.raises(TrainingError, match=rf"{bad} of step 6 .*checkpoint of step 4 is kept .*checkpoint-4.*smaller learning rate"):
        toy_train(chat, tmp_path / "run", fault=fault)
    kept = sorted(path.name for path in (tmp_path / "run").glob("checkpoint-*"))
    assert kept == ["checkpoint-2", "checkpoint-4"]
    saved = load_file(tmp_path / "run" / "checkpoint-4" / "model.safetensors")
    assert all(torch.isfinite(value).all() for value in saved.values())


def test_a_loss_that_is_not_finite_at_once_says_that_nothing_was_saved(tiny_model, tmp_path):
    with pytest.raises(TrainingError, match="no checkpoint had been saved yet"):
        toy_train(tiny_model("llama", n_layers=2), tmp_path / "run", fault=lambda step, loss: loss / 0)


@pytest.mark.parametrize("error", [torch.OutOfMemoryError("CUDA out of memory."), RuntimeError("DefaultCPUAllocator: can't allocate memory")])
def test_out_of_memory_names_the_batch_of_the_same_step_and_the_training_goes_on_with_it(tiny_model, tmp_path, error):
    chat = tiny_model("llama", n_layers=2)

    def fault(step, loss):
        if step == 6:
            raise error
        return loss

    with pytest.raises(DataError, match=r"batch_size=4 and accumulation=1\. Use batch_size=2 with accumulation=2: the same 4 rows a step"):
        toy_train(chat, tmp_path / "run", toy_config(batch_size=4), fault=fault)
    assert toy_train(chat, tmp_path / "run", toy_config(batch_size=2, accumulation=2)).steps == 10


def test_other_runtime_errors_are_not_taken_for_memory(tiny_model, tmp_path):
    def fault(step, loss):
        raise RuntimeError("shapes differ")

    with pytest.raises(RuntimeError, match="shapes differ"):
        toy_train(tiny_model("llama", n_layers=2), tmp_path / "run", fault=fault)


@pytest.mark.parametrize(
    ("batch", "accumulation", "at_least", "expected"), [(8, 1, 1, (4, 2)), (5, 2, 1, (2, 5)), (6, 1, 2, (3, 2)), (2, 4, 2, None), (1, 1, 1, None)]
)
def test_a_smaller_batch_keeps_the_rows_of_a_step(batch, accumulation, at_least, expected):
    config = TrainingConfig(batch_size=batch, accumulation=accumulation)
    assert config.smaller_batch(at_least) == expected
    if expected:
        assert expected[0] * expected[1] == config.effective_batch


def test_a_batch_that_cannot_shrink_gets_other_remedies(tiny_model, tmp_path):
    def fault(step, loss):
        raise torch.OutOfMemoryError("CUDA out of memory.")

    with pytest.raises(DataError, match="cannot shrink: use gradient_checkpointing, a LoRA adapter"):
        toy_train(tiny_model("llama", n_layers=2), tmp_path / "run", fault=fault, smallest_batch=2)


# PEFT 0.21 asks transformers 5.23 under a name that transformers has renamed; inside the engine that is kept quiet
@pytest.mark.filterwarnings("ignore:.*gradient_checkpointing.* is deprecated:FutureWarning")
def test_an_adapter_trains_few_weights_and_loads_again_through_peft_onto_the_start(tiny_model, tmp_path):
    import copy

    from peft import PeftModel

    chat = tiny_model("llama", n_layers=2)
    before = weights(chat.model)
    trained = toy_train(chat, tmp_path / "run", toy_config(lora=LoraOptions(rank=4), learning_rate=5e-2))
    assert same(weights(chat.model), before) and type(trained.model) is type(chat.model)
    assert 0 < trained.trained_parameters < sum(p.numel() for p in chat.model.parameters()) / 3
    trained.save(tmp_path / "saved", chat)
    ids = torch.arange(5, 25).reshape(2, 10)
    with torch.no_grad():
        ours, start = trained.model(ids).logits, chat.model(ids).logits
        again = PeftModel.from_pretrained(load_model(tmp_path / "saved", check=False).model, tmp_path / "saved" / "adapter")
        with again.disable_adapter():
            merged = again(ids).logits
    assert (ours - start).abs().max() > 0.1
    torch.testing.assert_close(merged, ours, rtol=0, atol=0)  # the directory itself holds the merged model
    with torch.no_grad():
        adapted = PeftModel.from_pretrained(copy.deepcopy(chat.model), tmp_path / "saved" / "adapter")(ids).logits
    torch.testing.assert_close(adapted, ours, rtol=1e-4, atol=1e-4)


def test_the_reference_is_the_start_also_while_an_adapter_trains(tiny_model, tmp_path):
    from tests.support.toy_training import ToyTrainer

    chat = tiny_model("llama", n_layers=2)
    ids, seen = torch.arange(5, 15).reshape(1, 10), []
    original = ToyTrainer.loss_of

    def spying(self, model, rows):
        with self.reference() as reference:
            seen.append(reference(ids).logits)
        return original(self, model, rows)

    for lora in (None, LoraOptions(rank=2)):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(ToyTrainer, "loss_of", spying)
            toy_train(chat, tmp_path / f"run-{lora is None}", toy_config(max_steps=3, lora=lora))
    with torch.no_grad():
        start = chat.model(ids).logits
    assert len(seen) == 6 and all(torch.equal(logits, start) for logits in seen)


def test_a_trained_model_is_asked_like_the_start_and_saved_as_a_directory_that_loads(tiny_model, tmp_path):
    chat = tiny_model("llama", n_layers=2)
    trained = toy_train(chat, tmp_path / "run", toy_config(max_steps=2))
    repaired = trained.chat(chat, "repaired")
    assert repaired.template == chat.template and repaired.name == "repaired" and repaired.fingerprint != chat.fingerprint
    loaded = load_model(trained.save(tmp_path / "saved", chat))
    assert loaded.fingerprint == repaired.fingerprint and loaded.render("Hello there.") == chat.render("Hello there.")
    assert not list((tmp_path / "saved").glob("*.bin"))


def test_an_unfinished_training_with_other_settings_is_not_continued(tiny_model, tmp_path):
    chat = tiny_model("llama", n_layers=2)
    with pytest.raises(TrainingError):
        toy_train(chat, tmp_path / "run", fault=lambda step, loss: loss / (step < 6))
    with pytest.raises(StoreMismatchError, match="seed: 3 there, 4 asked"):
        toy_train(chat, tmp_path / "run", toy_config(seed=4))
    with pytest.raises(StoreMismatchError, match="model"):
        toy_train(tiny_model("llama", n_layers=2, seed=1), tmp_path / "run")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_size": 0}, "batch_size 0"),
        ({"learning_rate": float("nan")}, "learning_rate nan"),
        ({"schedule": "cosin"}, "Did you mean 'cosine'"),
        ({"order": "random"}, "'shuffled'"),
        ({"max_steps": 0}, "max_steps 0"),
    ],
)
def test_settings_that_make_no_sense_are_refused(options, message):
    with pytest.raises(DataError, match=message):
        TrainingConfig(**options)
    with pytest.raises(DataError, match="rank >= 1"):
        LoraOptions(rank=0)


def test_the_history_is_a_table_of_numbers(tiny_model, tmp_path):
    history = toy_train(tiny_model("llama", n_layers=2), tmp_path / "run", toy_config(max_steps=2)).history
    assert list(history.columns) == ["step", "statistic", "language", "value"]
    assert pd.api.types.is_integer_dtype(history["step"]) and history["value"].notna().all()
