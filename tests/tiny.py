"""Tiny random models of seven families, their tokenizer and a harmless grid: built from configurations, nothing downloaded."""

from __future__ import annotations

from typing import Any

import pandas as pd

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


def build_grid(n_meanings: int = 6, *, languages: tuple[str, ...] = ("en", "fr"), n_words: int = 7) -> Any:
    """Build a small complete grid of made-up harmless texts, half of them labelled harmful so that there are two classes."""
    from workbench.prompts import PromptGrid

    words = ["bread", "rivers", "longest", "home", "three", "bake", "pain"]
    rows = [
        {
            "prompt_id": f"{language}-{meaning}",
            "meaning_id": f"m{meaning}",
            "language": language,
            "text": f"{language} {meaning} "
            + " ".join(words[(meaning + i) % len(words)] for i in range(1 + (meaning * 5 + 3 * number) % n_words))
            + "?",
            "harmful": meaning % 2 == 0,
        }
        for meaning in range(n_meanings)
        for number, language in enumerate(languages)
    ]
    return PromptGrid(pd.DataFrame(rows))
