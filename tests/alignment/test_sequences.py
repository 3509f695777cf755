"""Rows of training: the border in front of a completion, what is learned of a row, and what a model makes of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from tests.tiny import build_grid, build_model, build_tokenizer
from workbench.alignment.sequences import Example, collate, completion_logprobs, encode, hidden_and_logprobs, openings
from workbench.alignment.turns import turn_of
from workbench.behavior.generate import generate
from workbench.errors import DataError, ModelError, PromptError
from workbench.models.chat import ChatModel, twin_of
from workbench.models.load import load_model

PROMPTS = ["How do I bake bread?", "Name three rivers and tell me which is the longest.", "Hello there."]
REPLIES = ["With flour, at home.", "The longest is the first of them", "Hello"]
SENTENCE = "Take care. Tell it in few words.\n"

Tiny = Callable[..., ChatModel]


@pytest.fixture
def chat(tiny_model: Tiny) -> ChatModel:
    return tiny_model("llama")


def by_hand(chat: ChatModel, example: Example) -> float:
    """Sum a row's completion token by token, from a pass of the row alone over the whole head."""
    with torch.no_grad():
        logits = chat.model(input_ids=torch.tensor([example.ids])).logits[0].double()
    start = len(example.opening_ids)
    return float(sum(logits[at - 1].log_softmax(dim=-1)[example.ids[at]] for at in range(start, len(example.ids))))


# ------------------------------------------------------------------ the border


def test_training_and_inference_put_the_same_tokens_in_front_of_a_reply(chat: ChatModel) -> None:
    """LASA's release joins strings at inference and tokens in training (card 1.10, trap 7)."""
    grid = build_grid(2, languages=("en",))
    frame = grid.frame
    (ids,) = openings(chat, [PROMPTS[0]], SENTENCE)
    sentence = ids[len(openings(chat, [PROMPTS[0]])[0]) :]
    trained = encode(chat, list(frame["text"]), ["Bread.", "Home."], insert=[SENTENCE, None])
    seen: list[list[int]] = []

    def look(_module: Any, _args: Any, kwargs: dict[str, Any]) -> None:
        seen.append(kwargs["input_ids"][0].tolist())

    own = replace(chat, model=twin_of(chat.model))
    own.parts.base.register_forward_pre_hook(look, with_kwargs=True)
    for row, example in enumerate(trained):
        seen.clear()
        name = frame["prompt_id"][row]
        generate(
            own, grid.select(meanings=[frame["meaning_id"][row]]), insert={name: sentence} if row == 0 else None, max_new_tokens=1, progress=False
        )
        assert tuple(seen[0]) == example.opening_ids
    assert trained[0].insert_ids == sentence and trained[1].insert_ids == ()


@settings(max_examples=40, deadline=None)
@given(
    reply=st.text(st.characters(codec="utf-8", exclude_characters="\ufeff"), min_size=1).filter(str.strip), inserted=st.sampled_from([None, SENTENCE])
)
def test_no_completion_moves_the_border_in_front_of_it(reply: str, inserted: str | None) -> None:
    chat = _chat()
    (plain,) = encode(chat, PROMPTS[:1], ["Bread."], insert=inserted)
    (example,) = encode(chat, PROMPTS[:1], [reply], insert=inserted)
    assert example.opening_ids == plain.opening_ids == openings(chat, PROMPTS[:1], inserted)[0]
    (without,) = encode(chat, PROMPTS[:1], [reply])
    assert without.completion_ids == example.completion_ids and without.prompt_ids == example.prompt_ids


_CHATS: list[ChatModel] = []


def _chat() -> ChatModel:
    if not _CHATS:
        tokenizer = build_tokenizer()
        _CHATS.append(load_model(build_model("llama", vocab_size=len(tokenizer)), tokenizer=tokenizer, check=False))
    return _CHATS[0]


def test_the_end_token_is_part_of_the_completion(chat: ChatModel) -> None:
    for example, reply in zip(encode(chat, PROMPTS, REPLIES), REPLIES, strict=True):
        assert example.completion_ids[-1] == chat.tokenizer.eos_token_id
        assert chat.tokenizer.decode(example.completion_ids[:-1]) == reply


def test_a_row_is_what_the_template_makes_of_the_conversation(chat: ChatModel) -> None:
    for example, prompt, reply in zip(encode(chat, PROMPTS, REPLIES), PROMPTS, REPLIES, strict=True):
        said = [{"role": "user", "content": prompt}, {"role": "assistant", "content": reply}]
        whole = chat.tokenizer.apply_chat_template(said, tokenize=False)
        ids = chat.tokenizer(whole, add_special_tokens=False)["input_ids"]
        assert tuple(ids[: len(example)]) == example.ids


def test_the_organism_is_trained_on_the_words_it_knows() -> None:
    chat = load_model("organism:aligned", check=False)
    from workbench.prompts import load_prompts

    row = load_prompts("organism").frame.iloc[0]
    (example,) = encode(chat, [row["text"]], [row["refusal"]], insert=[(7,)])
    words = chat.tokenizer.convert_ids_to_tokens(list(example.ids))
    assert words[0] == "<bos>" and words[1 : len(example.prompt_ids) - 1] == row["text"].split()
    assert words[len(example.prompt_ids) + 1 :] == [*row["refusal"].split(), "<eos>"] and example.insert_ids == (7,)


def test_a_turn_ends_with_the_templates_own_token_where_that_stops_generation() -> None:
    """Gemma and Llama 3 close a turn with another token than the tokenizer's EOS."""
    tokenizer = build_tokenizer()
    tokenizer.eos_token = "<|endoftext|>"
    model = build_model("llama", vocab_size=len(tokenizer))
    model.generation_config.eos_token_id = [0, 2]
    chat = load_model(model, tokenizer=tokenizer, check=False)
    assert turn_of(chat) == ("", tokenizer.convert_tokens_to_ids("<|im_end|>"))
    plain = load_model(model, tokenizer=tokenizer, template="plain", check=False)
    assert turn_of(plain) == (" ", tokenizer.eos_token_id)  # "Assistant: ..." and a line break, which stops nothing
    raw = load_model(model, tokenizer=tokenizer, template="raw", check=False)
    assert turn_of(raw) == ("", tokenizer.eos_token_id)


def test_a_tokenizer_that_marks_the_start_of_a_text_does_not_mark_completions() -> None:
    """SentencePiece-like tokenizers put a blank in front of the first word only: behind a template there is none, nor in training."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    words = ["<end>", "<user>", "<model>", "<unk>", "▁Bread", "Bread", "▁Flour", "Flour", "▁and", "▁water"]
    core = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="<unk>"))
    core.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first")
    core.decoder = decoders.Metaspace(prepend_scheme="first")
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=core, eos_token="<end>", unk_token="<unk>", additional_special_tokens=["<user>", "<model>"], pad_token="<end>"
    )
    tokenizer.chat_template = (
        "{% for m in messages %}<{{ 'user' if m['role'] == 'user' else 'model' }}>{{ m['content'] }}<end>{% endfor %}"
        "{% if add_generation_prompt %}<model>{% endif %}"
    )
    chat = load_model(build_model("llama", vocab_size=len(words)), tokenizer=tokenizer, check=False)
    (example,) = encode(chat, ["Bread"], ["Flour and water"])
    assert chat.tokenizer.convert_ids_to_tokens(list(example.completion_ids)) == ["Flour", "▁and", "▁water", "<end>"]
    assert chat.tokenizer("Flour")["input_ids"] == [words.index("▁Flour")]


def test_a_completion_that_would_melt_into_the_template_is_cut_on_its_own(tmp_path: Path) -> None:
    template = tmp_path / "melting.jinja"
    template.write_text(
        "{% for m in messages %}<|im_start|>{{ m['content'] }}{% endfor %}{% if add_generation_prompt %} ba{% endif %}", encoding="utf-8"
    )
    tokenizer = build_tokenizer()
    chat = load_model(build_model("llama", vocab_size=len(tokenizer)), tokenizer=tokenizer, template=template, check=False)
    assert len(tokenizer(" bake")["input_ids"]) == 1, "the example needs a token across the border"
    (example,) = encode(chat, PROMPTS[:1], ["ke"])
    assert tokenizer.decode(example.completion_ids[:-1]) == "ke" and example.opening_ids == openings(chat, PROMPTS[:1])[0]


# ------------------------------------------------------------------ lengths and refusals


def test_a_long_completion_is_cut_at_its_end_and_then_does_not_end(chat: ChatModel) -> None:
    (whole,) = encode(chat, PROMPTS[:1], REPLIES[:1])
    for length in range(len(whole.prompt_ids) + 1, len(whole) + 3):
        (cut,) = encode(chat, PROMPTS[:1], REPLIES[:1], max_length=length)
        assert cut.ids == whole.ids[:length] and (cut.completion_ids[-1] == chat.tokenizer.eos_token_id) == (length >= len(whole))


def test_a_prompt_that_leaves_no_room_is_named(chat: ChatModel) -> None:
    with pytest.raises(DataError, match=r"1 of 3 prompts fill the longest row of 40 tokens.*'p2'"):
        encode(chat, [*PROMPTS[:1], "bread " * 40, "Hello"], REPLIES, ["p1", "p2", "p3"], max_length=40)
    (opened,) = openings(chat, PROMPTS[:1], SENTENCE)
    with pytest.raises(DataError, match="leave no room"):
        encode(chat, PROMPTS[:1], REPLIES[:1], insert=SENTENCE, max_length=len(opened))


def test_what_cannot_be_a_row_is_refused(chat: ChatModel) -> None:
    with pytest.raises(PromptError, match="Empty completions in rows 'b'"):
        encode(chat, PROMPTS[:2], ["Bread.", " \n"], ["a", "b"])
    with pytest.raises(PromptError, match="3 prompts, 2 completions"):
        encode(chat, PROMPTS, REPLIES[:2])
    with pytest.raises(PromptError, match="2 insertions for 3 prompts"):
        encode(chat, PROMPTS, REPLIES, insert=[None, SENTENCE])
    organism = load_model("organism:aligned", check=False)
    with pytest.raises(ModelError, match="does not know every word of the inserted text"):
        openings(organism, ["sir rale"], "Beware")


# ------------------------------------------------------------------ what is learned


@pytest.mark.parametrize("family", ["llama", "qwen2", "gemma2"])
def test_logprobs_are_the_sums_taken_by_hand(tiny_model: Tiny, family: str) -> None:
    chat = tiny_model(family)
    examples = encode(chat, PROMPTS, REPLIES, insert=[None, SENTENCE, None])
    with torch.no_grad():
        logprobs, lengths = completion_logprobs(chat.model, collate(chat, examples))
    assert lengths.tolist() == [len(example.completion_ids) for example in examples]
    torch.testing.assert_close(logprobs.double(), torch.tensor([by_hand(chat, e) for e in examples], dtype=torch.float64), rtol=1e-5, atol=1e-4)


@settings(max_examples=15, deadline=None)
@given(order=st.permutations(range(4)), alone=st.integers(0, 3))
def test_neither_padding_nor_the_other_rows_matter(order: list[int], alone: int) -> None:
    chat = _chat()
    examples = encode(chat, [*PROMPTS, PROMPTS[0] * 3], [*REPLIES, "Bread"], insert=[SENTENCE, None, None, None])
    with torch.no_grad():
        together, _ = completion_logprobs(chat.model, collate(chat, examples))
        mixed, _ = completion_logprobs(chat.model, collate(chat, [examples[i] for i in order]))
        one, _ = completion_logprobs(chat.model, collate(chat, [examples[alone]]))
    torch.testing.assert_close(mixed, together[list(order)], rtol=0, atol=1e-4)
    torch.testing.assert_close(one[0], together[alone], rtol=0, atol=1e-4)


def test_what_stands_at_padding_changes_nothing(chat: ChatModel) -> None:
    batch = collate(chat, encode(chat, PROMPTS, REPLIES))
    assert not bool(batch.mask.all())
    other = batch._replace(ids=torch.where(batch.mask, batch.ids, 7))
    with torch.no_grad():
        assert torch.equal(completion_logprobs(chat.model, batch)[0], completion_logprobs(chat.model, other)[0])


def test_labels_are_the_completions_and_nothing_else(chat: ChatModel) -> None:
    examples = encode(chat, PROMPTS, REPLIES, insert=[SENTENCE, None, SENTENCE])
    batch = collate(chat, examples)
    for row, example in enumerate(examples):
        assert batch.ids[row, batch.labels_mask[row]].tolist() == list(example.completion_ids)
        assert batch.ids[row, batch.mask[row]].tolist() == list(example.ids)


def test_inserted_tokens_prompts_and_padding_teach_nothing() -> None:
    """The logits that predict them get a gradient of exactly zero; those that predict a completion's tokens do not."""
    chat = _chat()
    model = twin_of(chat.model)
    kept: list[Tensor] = []

    def keep(_module: Any, _args: Any, output: Tensor) -> Tensor:
        kept.append(output.requires_grad_(True))
        output.retain_grad()
        return output

    model.get_output_embeddings().register_forward_hook(keep)
    examples = encode(chat, PROMPTS, REPLIES, insert=[SENTENCE, None, None])
    batch = collate(chat, examples)
    logprobs, _ = completion_logprobs(model, batch)
    logprobs.sum().backward()
    (logits,) = kept
    assert logits.grad is not None
    size = logits.grad.abs().amax(dim=-1)
    first = batch.ids.shape[1] - logits.shape[1]  # the head saw the last places only
    predicting = torch.zeros(batch.ids.shape, dtype=torch.bool)
    predicting[:, :-1] = batch.labels_mask[:, 1:]
    assert torch.equal(size > 0, predicting[:, first:])
    # the row with a sentence: each place that predicts one of its tokens was seen by the head, and learned nothing
    start, stop = len(examples[0].prompt_ids) - 1, len(examples[0].opening_ids) - 1
    assert start >= first and stop > start and not bool(size[0, start - first : stop - first].any())


def test_the_sentence_is_read_all_the_same(chat: ChatModel) -> None:
    plain, told = (collate(chat, encode(chat, PROMPTS, REPLIES, insert=insert)) for insert in (None, SENTENCE))
    with torch.no_grad():
        (without, n), (with_it, m) = completion_logprobs(chat.model, plain), completion_logprobs(chat.model, told)
    assert torch.equal(n, m) and bool((without - with_it).abs().min() > 1e-3)


def test_final_states_are_those_of_hugging_face_and_no_hook_stays(tiny_model: Tiny) -> None:
    chat = tiny_model("gemma2")
    batch = collate(chat, encode(chat, PROMPTS, REPLIES))
    base = chat.parts.base
    before = len(base._forward_hooks)
    with torch.no_grad():
        scored = hidden_and_logprobs(chat.model, batch)
        wanted = twin_of(chat.model)(input_ids=batch.ids, output_hidden_states=True).hidden_states[-1]
        logprobs, lengths = completion_logprobs(chat.model, batch)
    torch.testing.assert_close(scored.states[batch.mask], wanted[batch.mask], rtol=1e-5, atol=1e-5)
    assert torch.equal(scored.logprobs, logprobs) and torch.equal(scored.lengths, lengths)
    assert len(base._forward_hooks) == before


# PEFT 0.21 asks transformers 5.23 under a name that transformers has renamed
@pytest.mark.filterwarnings("ignore:.*gradient_checkpointing.* is deprecated:FutureWarning")
def test_states_carry_gradients_also_through_an_adapter() -> None:
    peft = pytest.importorskip("peft")
    chat = _chat()
    model = peft.get_peft_model(build_model("llama", vocab_size=len(chat.tokenizer)), peft.LoraConfig(r=2, target_modules="all-linear"))
    batch = collate(chat, encode(chat, PROMPTS, REPLIES))
    scored = hidden_and_logprobs(model, batch)
    (scored.states[batch.mask].square().mean() + scored.logprobs.mean()).backward()
    grads = [p.grad for p in model.parameters() if p.requires_grad]
    assert grads and any(g is not None and bool(g.abs().sum() > 0) for g in grads)
    with torch.no_grad():
        torch.testing.assert_close(scored.logprobs.detach(), completion_logprobs(chat.model, batch)[0], rtol=1e-5, atol=1e-4)
