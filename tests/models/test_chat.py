"""From text to tokens: positions, BOS, templates and what is refused."""

from __future__ import annotations

import copy

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.tiny import build_model
from workbench.errors import ModelCheckError, ModelError, PromptError
from workbench.models import load_model
from workbench.models.template import DATE

TEXTS = ["How do I bake bread at home?", "日本語の文章です。", "Ünïcödé naïve", "trailing blank \n", "two\nlines", "x"]


@pytest.fixture(scope="module")
def qwen_tokenizer(shared_dir):
    from transformers import AutoTokenizer

    folder = shared_dir / "weights" / "qwen2_tokenizer"
    if not folder.is_dir():
        pytest.skip(f"no Qwen2 tokenizer at {folder}")
    return AutoTokenizer.from_pretrained(folder)


@pytest.fixture(scope="module")
def qwen(qwen_tokenizer):
    return load_model(build_model("qwen2", n_layers=2, vocab_size=len(qwen_tokenizer)), tokenizer=qwen_tokenizer)


@pytest.fixture(scope="module")
def stories(shared_dir):
    folder = shared_dir / "weights" / "stories260K" / "hf"
    if not folder.is_dir():
        pytest.skip(f"no stories260K at {folder}")
    return folder


def decoded(chat, tokens, position):
    start, end = tokens.span(position)
    return chat.tokenizer.decode(tokens.ids[start:end])


def test_positions_of_the_real_qwen2_template_decode_to_what_they_name(qwen):
    tokens = qwen.tokenise(["How do I bake bread at home?"])[0]
    assert decoded(qwen, tokens, "mean_inst") == "How do I bake bread at home?"
    assert decoded(qwen, tokens, "t_inst") == "?"
    assert [decoded(qwen, tokens, f"post[{i}]") for i in range(tokens.n_post)] == ["<|im_end|>", "\n", "<|im_start|>", "assistant", "\n"]
    assert decoded(qwen, tokens, "t_post_inst") == "\n"
    assert qwen.tokenizer.decode(tokens.ids) == qwen.render("How do I bake bread at home?")
    assert qwen.render("x").startswith("<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n<|im_start|>user\nx<|im_end|>")


@pytest.mark.parametrize("text", TEXTS)
def test_the_text_is_found_again_in_every_script(qwen, text):
    tokens = qwen.tokenise([text])[0]
    assert decoded(qwen, tokens, "mean_inst") == text
    assert tokens.n_chars == len(text)
    assert tokens.n_inst == len(qwen.tokenizer(text)["input_ids"])
    assert tokens.tokens_per_character == tokens.n_inst / len(text)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(text=st.text(st.characters(codec="utf-8", exclude_categories=["Cs", "Cc"]), min_size=1, max_size=30).filter(str.strip))
def test_any_text_is_found_again_among_the_tokens(tiny_model, text):
    chat = tiny_model("llama")
    tokens = chat.tokenise([text])[0]
    assert decoded(chat, tokens, "mean_inst") == text
    assert chat.tokenizer.decode(tokens.ids[: tokens.inst_start]) == chat.prefix
    assert chat.tokenizer.decode(tokens.ids[tokens.inst_end :]) == chat.suffix


def test_a_system_prompt_is_rendered_and_recorded(qwen_tokenizer):
    model = build_model("qwen2", n_layers=1, vocab_size=len(qwen_tokenizer))
    chat = load_model(model, tokenizer=qwen_tokenizer, system="Answer in one word.", check=False)
    assert "system\nAnswer in one word.<|im_end|>" in chat.render("x")
    assert chat.provenance()["system"] == "Answer in one word."


@pytest.mark.parametrize(
    ("template", "message"),
    [
        (
            "{% if messages[0]['role'] == 'system' %}{{ raise_exception('no system role') }}{% endif %}{{ messages[0]['content'] }}",
            "refuses a system prompt",
        ),
        ("[{{ messages[-1]['content'] }}]", "drops the system prompt"),
    ],
)
def test_a_template_that_cannot_show_the_system_prompt_is_refused(tiny_tokenizer, tmp_path, template, message):
    file = tmp_path / "t.jinja"
    file.write_text(template, encoding="utf-8")
    with pytest.raises(ModelError, match=message + r".*[Ll]eave system out"):
        load_model(build_model("llama"), tokenizer=tiny_tokenizer, template=file, system="Be brief.")


def test_a_template_that_changes_the_text_is_refused(tiny_tokenizer, tmp_path):
    file = tmp_path / "t.jinja"
    file.write_text("{{ messages[0]['content'] | upper }}", encoding="utf-8")
    with pytest.raises(ModelCheckError, match=r"does not show the user's text once and unchanged.*another template"):
        load_model(build_model("llama"), tokenizer=tiny_tokenizer, template=file)


def test_blanks_that_a_template_trims_are_not_looked_for(tiny_tokenizer, tmp_path):
    file = tmp_path / "t.jinja"
    file.write_text("<|im_start|>{{ messages[0]['content'] | trim }}<|im_end|>", encoding="utf-8")
    chat = load_model(build_model("llama"), tokenizer=tiny_tokenizer, template=file)
    tokens = chat.tokenise(["  bread \n"])[0]
    assert decoded(chat, tokens, "mean_inst") == "bread" and tokens.n_chars == 5


def test_thinking_is_switched_off_and_dates_stand_still(tiny_tokenizer, tmp_path):
    file = tmp_path / "t.jinja"
    file.write_text(
        "{{ strftime_now('%d %b') if strftime_now is defined }} {{ messages[0]['content'] }}"
        "{% if enable_thinking is defined and not enable_thinking %}<think></think>{% endif %}",
        encoding="utf-8",
    )
    chat = load_model(build_model("llama"), tokenizer=tiny_tokenizer, template=file)
    assert chat.render("x") == f"{DATE} x<think></think>"
    assert chat.provenance()["template"]["enable_thinking"] is False


def test_a_tokenizer_without_template_needs_plain_or_raw(tiny_tokenizer):
    bare = copy.deepcopy(tiny_tokenizer)
    bare.chat_template = None
    with pytest.raises(ModelError, match=r'template="plain".*--template plain'):
        load_model(build_model("llama"), tokenizer=bare)
    plain = load_model(build_model("llama"), tokenizer=bare, template="plain")
    assert plain.render("Hi") == "User: Hi\nAssistant:"
    assert decoded(plain, plain.tokenise(["Hi"])[0], "t_inst") == "i" and decoded(plain, plain.tokenise(["Hi"])[0], "t_post_inst") == ":"
    raw = load_model(build_model("llama"), tokenizer=bare, template="raw")
    tokens = raw.tokenise(["Hi there"])[0]
    assert tokens.n_post == 0 and raw.render("Hi there") == "Hi there" and tokens.span("t_inst") == tokens.span("t_post_inst")
    assert len({plain.template.hash, raw.template.hash}) == 2


def test_a_model_without_template_can_be_asked_as_another_one_is(tiny_tokenizer):
    bare = copy.deepcopy(tiny_tokenizer)
    bare.chat_template = None
    asked = load_model(build_model("llama"), tokenizer=tiny_tokenizer)
    alike = load_model(build_model("llama"), tokenizer=bare, template=asked.template)
    assert alike.template == asked.template and alike.render("Hi") == asked.render("Hi")


@pytest.mark.parametrize(
    ("template", "message"),
    [
        (b"{{ messages[0]['content'] + 1 }}", "refuses a user text .*Pass another template"),
        (b"{% for m in messages %}{{ m['content'] }}", "refuses a user text .*endfor"),
        ("Café {{ messages[0]['content'] }}".encode("latin-1"), r"is not UTF-8 \(byte 0xe9\)"),
    ],
)
def test_a_template_file_that_does_not_work_is_refused_with_the_reason(tiny_tokenizer, tmp_path, template, message):
    (tmp_path / "t.jinja").write_bytes(template)
    with pytest.raises(ModelError, match=message):
        load_model(build_model("llama"), tokenizer=tiny_tokenizer, template=tmp_path / "t.jinja")


def test_an_unknown_template_is_refused_with_the_nearest(tiny_tokenizer):
    with pytest.raises(ModelError, match=r"No template 'plian'.*Did you mean 'plain'"):
        load_model(build_model("llama"), tokenizer=tiny_tokenizer, template="plian")


def with_bos(tokenizer):
    """Copy a tokenizer and let it add <|endoftext|> as BOS, as Llama's does."""
    from tokenizers import processors

    own = copy.deepcopy(tokenizer)
    own.bos_token = "<|endoftext|>"
    own.backend_tokenizer.post_processor = processors.TemplateProcessing(single="<|endoftext|> $A", special_tokens=[("<|endoftext|>", 0)])
    return own


@pytest.mark.parametrize(
    ("start", "fits", "message"),
    [("{{ bos_token }}", True, ""), ("", False, "no BOS token in front"), ("{{ bos_token }}{{ bos_token }}", False, "2 BOS tokens")],
)
def test_exactly_one_bos_is_asked_for(tiny_tokenizer, start, fits, message):
    tokenizer = with_bos(tiny_tokenizer)
    tokenizer.chat_template = start + tokenizer.chat_template
    if fits:
        chat = load_model(build_model("llama"), tokenizer=tokenizer)
        assert chat.tokenise(["bread"])[0].ids.count(0) == 1
    else:
        with pytest.raises(ModelCheckError, match=message + r".*pass a \.jinja template"):
            load_model(build_model("llama"), tokenizer=tokenizer)


@pytest.mark.parametrize("template", ["plain", "raw"])
def test_plain_and_raw_have_the_bos_that_the_tokenizer_adds(tiny_tokenizer, template):
    chat = load_model(build_model("llama"), tokenizer=with_bos(tiny_tokenizer), template=template)
    tokens = chat.tokenise(["bread"])[0]
    assert tokens.ids[0] == 0 and tokens.ids.count(0) == 1 and tokens.inst_start > 0
    assert decoded(chat, tokens, "mean_inst").strip() == "bread"


def test_a_prompt_that_brings_its_own_bos_is_named(tiny_tokenizer):
    chat = load_model(build_model("llama"), tokenizer=with_bos(tiny_tokenizer), template="raw")
    with pytest.raises(ModelCheckError, match="Prompt b: 2 BOS tokens"):
        chat.tokenise(["bread", "<|endoftext|>bread"], names=["a", "b"])


def test_a_token_across_the_edge_counts_as_the_texts_last(tiny_tokenizer, tmp_path):
    file = tmp_path / "t.jinja"
    file.write_text("{{ messages[0]['content'] }}ad at home?", encoding="utf-8")
    chat = load_model(build_model("llama"), tokenizer=tiny_tokenizer, template=file)
    tokens = chat.tokenise(["How do I bake bre"])[0]
    assert decoded(chat, tokens, "t_inst") == " bread"
    assert decoded(chat, tokens, "post[0]") == " at"


def test_empty_texts_and_unknown_positions_are_refused(tiny_model):
    chat = tiny_model("llama")
    with pytest.raises(PromptError, match="Empty text in prompts b"):
        chat.tokenise(["x", " \n"], names=["a", "b"])
    tokens = chat.tokenise(["x"])[0]
    with pytest.raises(ModelError, match=r"no position 't_ins'.*Did you mean 't_inst'"):
        tokens.span("t_ins")
    with pytest.raises(PromptError, match=rf"post\[99\] does not exist.*post\[0\] to post\[{tokens.n_post - 1}\]"):
        tokens.span("post[99]")


def test_a_tokenizer_of_another_model_is_refused(tiny_tokenizer):
    with pytest.raises(ModelCheckError, match="outside the model's vocabulary of 60"):
        load_model(build_model("llama", vocab_size=60), tokenizer=tiny_tokenizer)


def test_byte_pieces_of_a_sentencepiece_tokenizer_are_found(stories):
    chat = load_model(stories, template="raw")
    tokens = chat.tokenise(["Once 日本"])[0]
    assert tokens.n_inst == len(tokens) and tokens.n_chars == 7
    assert decoded(chat, tokens, "mean_inst").strip() == "Once 日本"


def test_left_and_right_padding_put_the_text_where_they_say(tiny_model):
    chat = tiny_model("llama")
    right, mask = chat.pad([[5, 6, 7], [8]])
    assert right.tolist() == [[5, 6, 7], [8, 0, 0]] and mask.tolist() == [[1, 1, 1], [1, 0, 0]]
    left, mask = chat.pad([[5, 6, 7], [8]], side="left")
    assert left.tolist() == [[5, 6, 7], [0, 0, 8]] and mask.tolist() == [[1, 1, 1], [0, 0, 1]]
