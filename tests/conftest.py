"""Fixtures that every room uses: a random generator, the shared public data and tiny random models of seven families."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("WANDB_MODE", "disabled")

import numpy as np
import pytest

FAMILIES = ("llama", "qwen2", "qwen3", "mistral", "gemma2", "gemma3", "phi3")

#: Harmless training text of the tiny tokenizer.
_TEXT = [
    "How do I bake bread at home?",
    "Comment faire du pain chez moi ?",
    "Wie backe ich zu Hause Brot?",
    "Name three rivers and tell me which is the longest of them.",
    "Hello there.",
]
_CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


@pytest.fixture
def rng() -> np.random.Generator:
    """Return the generator that tests draw from."""
    return np.random.default_rng(0)


@pytest.fixture(scope="session")
def shared_dir() -> Path:
    """Return the folder of shared public data and weights, or skip."""
    folder = Path(os.environ.get("WORKBENCH_SHARED", Path(__file__).parents[2] / "shared"))
    if not folder.is_dir():
        pytest.skip(f"no shared data at {folder} (set WORKBENCH_SHARED)")
    return folder


def build_tokenizer() -> Any:
    """Train a byte-level BPE tokenizer with a ChatML template and no BOS on a few harmless sentences."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    trainer = trainers.BpeTrainer(vocab_size=400, special_tokens=special, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False)
    core.train_from_iterator(_TEXT * 20, trainer)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=core, eos_token="<|im_end|>", pad_token="<|endoftext|>")
    tokenizer.chat_template = _CHAT_TEMPLATE
    return tokenizer


def build_model(family: str, *, n_layers: int = 4, vocab_size: int = 400, hidden_size: int = 32, seed: int = 0) -> Any:
    """Build a random causal language model of one family (float32, eval mode) without touching the global generator."""
    import torch
    import transformers as hf

    configs = {
        "llama": (hf.LlamaConfig, hf.LlamaForCausalLM),
        "qwen2": (hf.Qwen2Config, hf.Qwen2ForCausalLM),
        "qwen3": (hf.Qwen3Config, hf.Qwen3ForCausalLM),
        "mistral": (hf.MistralConfig, hf.MistralForCausalLM),
        "gemma2": (hf.Gemma2Config, hf.Gemma2ForCausalLM),
        "gemma3": (hf.Gemma3TextConfig, hf.Gemma3ForCausalLM),
        "phi3": (hf.Phi3Config, hf.Phi3ForCausalLM),
    }
    config_class, model_class = configs[family]
    extra = {"head_dim": 8} if family in ("qwen3", "gemma2", "gemma3", "mistral") else {}
    config = config_class(
        vocab_size=vocab_size,
        hidden_size=hidden_size,
        intermediate_size=2 * hidden_size,
        num_hidden_layers=n_layers,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=256,
        initializer_range=0.2,
        pad_token_id=0,
        bos_token_id=None,
        eos_token_id=2,
        **extra,
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = model_class(config)
    return model.eval().requires_grad_(False)


@pytest.fixture(scope="session")
def tiny_tokenizer() -> Any:
    """Return the small trained tokenizer; treat it as read-only."""
    return build_tokenizer()


@pytest.fixture(scope="session")
def tiny_model(tiny_tokenizer: Any) -> Callable[..., Any]:
    """Return a factory of tiny checked ChatModels: ``tiny_model("llama")``; same arguments give the same object.

    Treat it as read-only (edits in context managers are fine); ``load_model(build_model(...))`` makes one of your own.
    """
    from workbench.models.load import load_model

    made: dict[Any, Any] = {}

    def factory(family: str = "llama", *, n_layers: int = 4, hidden_size: int = 32, seed: int = 0) -> Any:
        key = (family, n_layers, hidden_size, seed)
        if key not in made:
            model = build_model(family, n_layers=n_layers, hidden_size=hidden_size, vocab_size=len(tiny_tokenizer), seed=seed)
            made[key] = load_model(model, tokenizer=tiny_tokenizer)
        return made[key]

    return factory
