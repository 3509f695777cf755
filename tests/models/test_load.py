"""Loading: what is accepted, what is refused, and that the caller's objects stay as they were."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from tests.tiny import build_model
from workbench.errors import ModelCheckError, ModelError
from workbench.models import bits_per_byte, load_model, untrained_like
from workbench.models import load as load_module
from workbench.models.fingerprint import fingerprint


@pytest.fixture(scope="module")
def saved(tmp_path_factory, tiny_tokenizer):
    folder = tmp_path_factory.mktemp("model")
    build_model("qwen2", vocab_size=len(tiny_tokenizer)).save_pretrained(folder)
    tiny_tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def stories(shared_dir):
    folder = shared_dir / "weights" / "stories260K" / "hf"
    if not folder.is_dir():
        pytest.skip(f"no stories260K at {folder}")
    return load_model(folder, template="raw")


def test_a_saved_model_comes_back_the_same(saved, tiny_tokenizer):
    original = build_model("qwen2", vocab_size=len(tiny_tokenizer))
    chat = load_model(saved)
    assert chat.fingerprint == fingerprint(original)
    assert chat.path == saved and chat.dtype == torch.float32 and not chat.model.training
    assert not any(p.requires_grad for p in chat.model.parameters())
    assert max(v for k, v in chat.checks.items() if k != "tolerance") < 1e-5
    assert "Qwen2ForCausalLM, 4 blocks" in repr(chat) and len(repr(chat)) < 300


def test_half_precision_checkpoints_are_upcast_on_a_cpu_and_keep_their_fingerprint(saved, tmp_path, tiny_tokenizer):
    half = load_model(saved).model.to(torch.bfloat16)
    half.save_pretrained(tmp_path)
    tiny_tokenizer.save_pretrained(tmp_path)
    chat = load_model(tmp_path)
    assert chat.dtype == torch.float32
    assert chat.fingerprint == fingerprint(half)
    kept = load_model(tmp_path, dtype="bfloat16")
    assert kept.dtype == torch.bfloat16 and kept.checks["tolerance"] == 3e-2


def test_the_fingerprint_follows_weights_and_configuration():
    model = build_model("llama")
    before = fingerprint(model)
    assert before == fingerprint(build_model("llama")) != fingerprint(build_model("llama", seed=1))
    with torch.no_grad():
        model.model.embed_tokens.weight[7] += 1e-3  # one row: how a plant in a few words' embeddings changes a model
    assert fingerprint(model) != before
    other = build_model("llama")
    other.config.rope_parameters = {**other.config.rope_parameters, "rope_theta": 5000.0}
    assert fingerprint(other) != before


def test_a_model_in_memory_is_left_as_it_was(tiny_tokenizer):
    model = build_model("llama", vocab_size=len(tiny_tokenizer)).train()
    model.requires_grad_(True)
    sides = (tiny_tokenizer.padding_side, tiny_tokenizer.bos_token, tiny_tokenizer.pad_token)
    weights = {k: v.clone() for k, v in model.state_dict().items()}
    chat = load_model(model, tokenizer=tiny_tokenizer)
    chat.states(chat.tokenise(["bread"]), layers=[0, 4], positions=["t_inst"])
    assert model.training and all(m.training for m in model.modules()) and not chat.model.training
    assert all(p.requires_grad for p in model.parameters())
    assert all(torch.equal(v, weights[k]) for k, v in model.state_dict().items())
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())
    assert (tiny_tokenizer.padding_side, tiny_tokenizer.bos_token, tiny_tokenizer.pad_token) == sides
    assert chat.tokenizer is not tiny_tokenizer
    assert chat.model.lm_head.weight is model.lm_head.weight, "a twin shares the weights"


def test_a_model_in_memory_needs_a_tokenizer_and_a_head(tiny_tokenizer):
    with pytest.raises(ModelError, match="Pass tokenizer="):
        load_model(build_model("llama"))
    with pytest.raises(ModelError, match="no language-model head"):
        load_model(build_model("llama").model, tokenizer=tiny_tokenizer)
    with pytest.raises(ModelError, match="keeps its own"):
        load_model(build_model("llama"), tokenizer=tiny_tokenizer, dtype="float16")


@pytest.mark.parametrize("name", ["pytorch_model.bin", "weights.pt"])
def test_a_folder_with_pickles_only_is_refused(saved, tmp_path, name):
    (tmp_path / "config.json").write_text((saved / "config.json").read_text(encoding="utf-8"), encoding="utf-8")
    (tmp_path / name).write_bytes(b"never opened")
    with pytest.raises(ModelError, match=rf"no \.safetensors weights .*{name}.*save_pretrained"):
        load_model(tmp_path)


def test_missing_weights_are_refused_and_never_random(saved, tmp_path, tiny_tokenizer):
    config = json.loads((saved / "config.json").read_text(encoding="utf-8"))
    for file in saved.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    config["num_hidden_layers"] = 5
    config.pop("layer_types", None)
    (tmp_path / "config.json").write_text(json.dumps(config), encoding="utf-8")
    with pytest.raises(ModelError, match=r"weights are missing from the checkpoint.*would be random"):
        load_model(tmp_path)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("model.safetensors", b"", r"Cannot load .*SafetensorError.*check the directory"),
        ("config.json", b"{", r"Cannot load .*not a valid JSON file"),
        ("tokenizer.json", b"{}", r"cannot load a tokenizer from .*Expected tokenizer files"),
    ],
)
def test_broken_files_are_refused_with_the_reason(saved, tmp_path, name, content, message):
    for file in saved.iterdir():
        (tmp_path / file.name).write_bytes(content if file.name == name else file.read_bytes())
    with pytest.raises(ModelError, match=message):
        load_model(tmp_path)


def test_loading_says_nothing(saved, tmp_path, capfd, caplog):
    """A weight too many makes transformers print a report of twenty lines."""
    from safetensors.torch import load_file, save_file

    for file in saved.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    weights = load_file(tmp_path / "model.safetensors")
    save_file({**weights, "model.unheard_of.weight": torch.zeros(2)}, tmp_path / "model.safetensors", metadata={"format": "pt"})
    load_model(tmp_path)
    assert capfd.readouterr() == ("", "") and not caplog.records


def test_a_device_that_is_not_there_is_refused_before_anything_is_loaded():
    for device in ("cdua", "cuda:99"):
        with pytest.raises(ModelError, match=rf"no device '{device}' here\. Expected one of cpu"):
            load_model("nobody/nothing-at-all", device=device)


def test_sources_that_do_not_exist_are_refused_with_a_remedy(tmp_path):
    with pytest.raises(ModelError, match="No model directory"):
        load_model(tmp_path / "nowhere")
    with pytest.raises(ModelError, match=r"has no config\.json"):
        load_model(tmp_path)
    with pytest.raises(ModelError, match=r"Cannot load 'nobody/nothing-at-all'.*hf download"):
        load_model("nobody/nothing-at-all")
    with pytest.raises(ModelError, match="Unknown dtype 'float8'"):
        load_model("nobody/nothing-at-all", dtype="float8")


def test_organisms_are_found_in_the_package_and_others_named(monkeypatch, saved, tmp_path):
    (tmp_path / "weights" / "aligned").mkdir(parents=True)
    for file in saved.iterdir():
        (tmp_path / "weights" / "aligned" / file.name).write_bytes(file.read_bytes())
    monkeypatch.setattr(load_module.resources, "files", lambda _: tmp_path)
    assert load_model("organism:aligned").name == "organism:aligned"
    with pytest.raises(ModelError, match=r"no organism 'alined'.*organism:aligned.*Did you mean 'aligned'"):
        load_model("organism:alined")


def test_untrained_models_differ_by_seed_only_and_leave_the_generator_alone(tiny_model):
    chat = tiny_model("qwen3")
    state = torch.random.get_rng_state()
    first, again, other = untrained_like(chat, 1), untrained_like(chat, 1), untrained_like(chat, 2)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert first.fingerprint == again.fingerprint
    assert len({chat.fingerprint, first.fingerprint, other.fingerprint}) == 3
    assert first.template is chat.template and first.model.config.hidden_size == chat.model.config.hidden_size
    assert first.model.config is not chat.model.config and not first.model.training


def test_stories260k_tells_the_beginning_it_is_known_for(stories):
    assert stories.n_layers == 5 and stories.context == 512
    start = stories.tokenizer("<s>Once upon a time", return_tensors="pt", add_special_tokens=False)
    with torch.inference_mode():
        ids = stories.model.generate(**start, max_new_tokens=20, do_sample=False)
    assert stories.tokenizer.decode(ids[0], skip_special_tokens=True).startswith(
        "Once upon a time, there was a little girl named Lily. She loved to play"
    )


def test_bits_per_byte_counts_what_it_says(tiny_model):
    chat = tiny_model("llama")
    texts = ["How do I bake bread at home?", "été", "Hello there. " * 3]
    found = bits_per_byte(chat, texts)
    for text, value in zip(texts, found, strict=True):
        ids = chat.tokenizer(text, return_tensors="pt", add_special_tokens=False)["input_ids"]
        offsets = chat.tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)["offset_mapping"]
        with torch.no_grad():
            log_p = chat.model(ids).logits[0, :-1].log_softmax(-1)
        bits = -float(log_p[torch.arange(ids.shape[1] - 1), ids[0, 1:]].sum()) / torch.log(torch.tensor(2.0)).item()
        assert value == pytest.approx(bits / len(text[offsets[0][1] :].encode()), rel=1e-5)


def test_a_text_with_nothing_to_predict_has_no_bits_and_stops_no_other(tiny_model):
    chat = tiny_model("llama")
    assert chat.tokenizer.bos_token_id is None and len(chat.tokenizer("a", add_special_tokens=False)["input_ids"]) == 1
    text = "How do I bake bread at home?"
    found = bits_per_byte(chat, ["a", text, ""])
    assert np.isnan(found[[0, 2]]).all() and found[1] == pytest.approx(bits_per_byte(chat, [text])[0], rel=1e-5)
    assert np.isnan(bits_per_byte(chat, ["a"])).all()


def test_stories260k_knows_english_stories_and_no_swahili(stories):
    story = "Once upon a time, there was a little girl named Lily. She loved to play outside in the park."
    english, swahili = bits_per_byte(stories, [story, "Hapo zamani za kale kulikuwa na msichana mdogo."])
    assert english < 1 < 5 < swahili


@pytest.mark.parametrize(
    ("plant", "message"),
    [
        ("nan", r"NaN or infinite at layers \[2, 3, 4\].*first: model.layers.1.mlp.down_proj.weight"),
        ("mates", "batched beside it"),
        ("skip", "not the input of the next"),
        ("cache", "KV cache"),
    ],
)
def test_the_self_check_finds_each_planted_fault(tiny_tokenizer, plant, message):
    model = build_model("llama", vocab_size=len(tiny_tokenizer))
    if plant == "nan":
        with torch.no_grad():
            model.model.layers[1].mlp.down_proj.weight[0, 0] = float("nan")
    elif plant == "mates":
        model.model.layers[1].register_forward_hook(lambda m, a, out: out + out.mean(dim=(0, 1), keepdim=True))
    elif plant == "skip":
        model.model.layers[2].register_forward_pre_hook(lambda m, a: (a[0] * 1.5, *a[1:]), prepend=True)
    else:
        model.model.layers[1].register_forward_hook(lambda m, a, out: out + (out.shape[1] == 1))
    with pytest.raises(ModelCheckError, match=message):
        load_model(model, tokenizer=tiny_tokenizer)
    assert load_model(model, tokenizer=tiny_tokenizer, check=False).checks == {}
