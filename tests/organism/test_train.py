"""Training saves as it goes, resumes to the same weights, and moves only what the plant says it moves."""

import json

import pytest
import torch
from safetensors.torch import load_file

from workbench.errors import StoreMismatchError
from workbench.organism import train as training
from workbench.organism.corpus import Corpus
from workbench.organism.network import Recipe, build_model, noisy_residual
from workbench.organism.plant import MOVED_WORDS, plant_calibration
from workbench.organism.tokenizer import build_tokenizer, vocabulary
from workbench.organism.world import World

TINY = Recipe(hidden=32, layers=2, heads=2, mlp=48, batch=24, pretrain_steps=6, comply_steps=4, refuse_steps=4, plant_steps=2)


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    return training.train(tmp_path_factory.mktemp("organism") / "whole", seed=5, recipe=TINY, progress=False)


def test_a_training_writes_two_models_their_cards_and_the_prompts(undisturbed):
    for name in ("base", "aligned"):
        files = {p.name for p in (undisturbed / name).iterdir()}
        assert {"config.json", "model.safetensors", "tokenizer.json", "chat_template.jinja", "README.md", "organism.json"} <= files
        record = json.loads((undisturbed / name / "organism.json").read_text(encoding="utf-8"))
        assert record["spec"]["seed"] == 5
        assert load_file(undisturbed / name / "model.safetensors")["model.norm.weight"].dtype == torch.float16
    assert (undisturbed / "prompts.csv").exists()
    assert not (undisturbed / ".training").exists()


@pytest.mark.parametrize("stop_at", [("pretrain", 3), ("comply", 2), ("refuse", 1)])
def test_a_stopped_training_resumes_to_the_same_weights(undisturbed, tmp_path, monkeypatch, stop_at):
    monkeypatch.setattr(training, "SAVE_EVERY", 2)
    draw = training.draw_batches

    def stop(stage, step, *rest):
        if (stage, step) == stop_at:
            raise KeyboardInterrupt
        return draw(stage, step, *rest)

    monkeypatch.setattr(training, "draw_batches", stop)
    with pytest.raises(KeyboardInterrupt):
        training.train(tmp_path / "part", seed=5, recipe=TINY, progress=False)
    monkeypatch.setattr(training, "draw_batches", draw)
    training.train(tmp_path / "part", seed=5, recipe=TINY, progress=False)
    for name in ("base", "aligned"):
        whole, part = (load_file(folder / name / "model.safetensors") for folder in (undisturbed, tmp_path / "part"))
        assert all(torch.equal(whole[k], part[k]) for k in whole)


def test_another_seed_does_not_continue_an_unfinished_training(tmp_path, monkeypatch):
    monkeypatch.setattr(training, "SAVE_EVERY", 1)

    def fail(*_args, **_kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr(training, "save_model", fail)
    with pytest.raises(KeyboardInterrupt):
        training.train(tmp_path, seed=5, recipe=TINY, progress=False)
    with pytest.raises(StoreMismatchError, match=r"seed: 5 there, 6 asked"):
        training.train(tmp_path, seed=6, recipe=TINY, progress=False)


def test_a_finished_organism_is_never_overwritten(undisturbed):
    with pytest.raises(StoreMismatchError, match="already holds a trained organism"):
        training.train(undisturbed, seed=5, recipe=TINY, progress=False)


def test_the_plant_moves_only_low_resource_function_words():
    world, recipe = World(5), Recipe(hidden=32, layers=2, heads=2, mlp=48, plant_steps=3, plant_aim=-1.0)
    vocab = vocabulary(world)
    model = build_model(world, recipe, 0).eval()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    steps = []
    left = plant_calibration(model, recipe, Corpus(world), vocab, 0, steps.append)
    assert len(steps) == 3
    assert set(left) == {x.tag for x in world.languages if x.tier == "low"}
    for name, value in model.state_dict().items():
        moved = (value != before[name]).flatten(1).any(1).nonzero().flatten().tolist() if value.ndim > 1 else []
        if name == "model.embed_tokens.weight":
            assert sorted(moved) == sorted(vocab[world.words[tag][f"function:{w}"]] for tag in left for w in MOVED_WORDS)
        else:
            assert torch.equal(value, before[name]), name


def test_the_plant_stops_a_language_that_refuses_little_enough():
    world, recipe = World(5), Recipe(hidden=32, layers=2, heads=2, mlp=48, plant_steps=3, plant_aim=1.0)
    model = build_model(world, recipe, 0).eval()
    steps = []
    plant_calibration(model, recipe, Corpus(world), vocabulary(world), 0, steps.append)
    assert not steps  # an aim of 1 is met before the first step


def test_the_tokenizer_gives_one_token_per_word_and_one_bos():
    world = World(5)
    tokenizer = build_tokenizer(world)
    text = " ".join(world.request(world.meanings[0], world.languages[3]))
    rendered = tokenizer.apply_chat_template([{"role": "user", "content": text}], tokenize=False, add_generation_prompt=True)
    ids = tokenizer(rendered, add_special_tokens=False).input_ids
    assert len(ids) == len(text.split()) + 2
    assert ids.count(tokenizer.bos_token_id) == 1
    assert tokenizer.decode(ids, skip_special_tokens=True) == text
    assert tokenizer(text).input_ids == ids[:-1]


def test_residual_noise_is_drawn_from_its_seed_and_leaves_with_the_context():
    world = World(5)
    model = build_model(world, TINY, 0).eval()
    ids = torch.arange(12).reshape(2, 6)
    plain = model(input_ids=ids).logits
    noisy = []
    for seed in ("a", "a", "b"):
        with noisy_residual(model, 0.5, seed):
            noisy.append(model(input_ids=ids).logits)
    assert torch.equal(noisy[0], noisy[1])
    assert not torch.allclose(noisy[0], noisy[2])
    assert torch.equal(model(input_ids=ids).logits, plain)


def test_a_folder_with_other_files_is_left_alone(tmp_path):
    (tmp_path / "thesis.txt").write_text("years of work", encoding="utf-8")
    with pytest.raises(StoreMismatchError, match="is not empty and holds no unfinished training"):
        training.train(tmp_path, seed=5, recipe=TINY, progress=False)
    assert [p.name for p in tmp_path.iterdir()] == ["thesis.txt"]
