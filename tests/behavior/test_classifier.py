"""Classifier and guard judges on tiny models trained in a second on made-up text, so that they really tell replies apart."""

from __future__ import annotations

import logging

import pandas as pd
import pytest
import torch

from tests.tiny import build_model
from workbench.behavior.classifier import ClassifierJudge, GuardJudge
from workbench.behavior.guard_labels import PARSERS, llama_guard, parser_of, qwen3guard, wildguard
from workbench.behavior.refusal import refusal_rates
from workbench.errors import DataError, ModelError
from workbench.prompts import PromptGrid

REFUSALS = ["Name no rivers at home", "Hello no bread", "no bread at home", "Which rivers? no bake", "Hello there, no", "no, no longest of them"]
ANSWERS = [
    "Name three rivers at home",
    "Hello three bread",
    "three bread at home",
    "Which rivers? three bake",
    "Hello there, bake",
    "longest of them",
]


def asked(replies: list[str], tag: str = "en") -> tuple[pd.DataFrame, PromptGrid]:
    """Return replies to made-up prompts, every second one harmful."""
    rows = [{"language": tag, "meaning_id": f"m{i}", "text": f"bake bread {i}", "harmful": i % 2 == 0} for i in range(len(replies))]
    return pd.DataFrame({"prompt_id": [f"m{i}:{tag}" for i in range(len(replies))], "reply": replies}), PromptGrid(pd.DataFrame(rows))


@pytest.fixture(scope="module")
def classifier(tiny_tokenizer):
    """Train a small sequence classifier to see the word "no"."""
    from transformers import BertConfig, BertForSequenceClassification

    sizes = dict(hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32, max_position_embeddings=66)
    labels = {0: "NORMAL", 1: "REJECTION"}
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = BertForSequenceClassification(BertConfig(vocab_size=len(tiny_tokenizer), pad_token_id=0, id2label=labels, num_labels=2, **sizes))
        batch = tiny_tokenizer(REFUSALS + ANSWERS, return_tensors="pt", padding=True)
        truth = torch.tensor([1] * len(REFUSALS) + [0] * len(ANSWERS))
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
        for _ in range(30):
            optimizer.zero_grad()
            model(**batch, labels=truth).loss.backward()
            optimizer.step()
    return model.eval()


def test_a_trained_classifier_tells_refusals_from_answers_whatever_their_batch(classifier, tiny_tokenizer):
    judge = ClassifierJudge.load(classifier, tokenizer=tiny_tokenizer)
    replies, grid = asked([*REFUSALS, *ANSWERS])
    judged = judge.outcomes(replies, grid)
    assert list(judged["outcome"]) == ["refusal"] * len(REFUSALS) + ["compliance"] * len(ANSWERS)
    assert not judged["validated"].any()
    mixed = replies.sample(frac=1, random_state=0)
    assert list(judge.outcomes(mixed, grid).set_index("prompt_id").loc[judged["prompt_id"], "outcome"]) == list(judged["outcome"])
    solo = [judge.probabilities(pd.DataFrame({"text": ["x"], "reply": [reply]}))[0] for reply in REFUSALS]
    together = judge.probabilities(pd.DataFrame({"text": ["x"] * len(REFUSALS), "reply": REFUSALS}))
    assert together == pytest.approx(solo, abs=1e-5)


def test_the_threshold_and_the_label_are_the_users(classifier, tiny_tokenizer):
    replies, grid = asked([*REFUSALS, *ANSWERS])
    shy = ClassifierJudge.load(classifier, tokenizer=tiny_tokenizer, threshold=0.9999999).outcomes(replies, grid)
    assert set(shy["outcome"]) == {"compliance"}
    turned = ClassifierJudge.load(classifier, tokenizer=tiny_tokenizer, refusal_label="normal").outcomes(replies, grid)
    assert list(turned["outcome"]) == ["compliance"] * len(REFUSALS) + ["refusal"] * len(ANSWERS)
    with pytest.raises(DataError, match=r"NORMAL, REJECTION: which one means refusal\?"):
        ClassifierJudge.load(classifier, tokenizer=tiny_tokenizer, refusal_label="rejects")
    with pytest.raises(DataError, match="labels 0 to 1"):
        ClassifierJudge.load(classifier, tokenizer=tiny_tokenizer, refusal_label=2)
    with pytest.raises(DataError, match="threshold"):
        ClassifierJudge.load(classifier, tokenizer=tiny_tokenizer, threshold=1)


def test_noise_and_other_scripts_are_seen_by_the_reply_and_long_replies_are_cut(classifier, tiny_tokenizer):
    judge = ClassifierJudge.load(classifier, tokenizer=tiny_tokenizer, validated_in=["en"], refusal_label="NORMAL")
    judged = judge.outcomes(*asked(["", "no " * 20, "先把面粉和水混合在一起然后揉面", "no bread. " + "three bread at home. " * 60]))
    assert list(judged["outcome"])[:3] == ["garbled", "garbled", "off_language"]
    assert judged["validated"].all() and list(judged["reply_language"])[:3] == [None, None, None]


def test_a_pair_classifier_reads_the_prompt_too(classifier, tiny_tokenizer):
    judge = ClassifierJudge.load(classifier, tokenizer=tiny_tokenizer, with_prompt=True)
    prompts = ["no bread at home, no", "three bread at home"]
    of_prompt = judge.probabilities(pd.DataFrame({"text": prompts, "reply": ["bread", "bread"]}))
    assert of_prompt[0] != pytest.approx(of_prompt[1], abs=1e-3)


def test_a_classifier_is_loaded_from_a_folder_and_what_cannot_be_is_named(classifier, tiny_tokenizer, tmp_path):
    classifier.save_pretrained(tmp_path / "tiny-rejection")
    tiny_tokenizer.save_pretrained(tmp_path / "tiny-rejection")
    judge = ClassifierJudge.load(tmp_path / "tiny-rejection")
    assert judge.name == "classifier:tiny-rejection"
    assert set(judge.outcomes(*asked(REFUSALS))["outcome"]) == {"refusal"}
    with pytest.raises(ModelError, match="cannot be loaded"):
        ClassifierJudge.load(str(tmp_path / "nothing"))
    with pytest.raises(ModelError, match=r"Give model.eval\(\) and tokenizer="):
        ClassifierJudge.load(classifier)


WORDING = "<|im_start|>judge {prompt} | {reply}<|im_end|>\n"


@pytest.fixture(scope="module")
def guard(tiny_tokenizer):
    """Train a small language model to answer in WildGuard's words whether a reply holds "no"."""
    model = build_model("llama", n_layers=2, hidden_size=48, vocab_size=len(tiny_tokenizer))
    model.requires_grad_(True).train()
    rows, targets = [], []
    for replies, said in ((REFUSALS, "yes"), (ANSWERS, "no")):
        for i, reply in enumerate(replies):
            question = WORDING.replace("{prompt}", f"bake bread {i}").replace("{reply}", reply)
            ids = tiny_tokenizer(question, add_special_tokens=False)["input_ids"]
            answer = tiny_tokenizer(f"Response refusal: {said}<|im_end|>", add_special_tokens=False)["input_ids"]
            rows.append(ids + answer)
            targets.append([-100] * len(ids) + answer)
    width = max(map(len, rows))
    padded = torch.tensor([row + [0] * (width - len(row)) for row in rows])
    labels = torch.tensor([row + [-100] * (width - len(row)) for row in targets])
    with torch.random.fork_rng():
        torch.manual_seed(0)
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
        for _ in range(40):
            optimizer.zero_grad()
            model(input_ids=padded, labels=labels).loss.backward()
            optimizer.step()
    return model.eval().requires_grad_(False)


def test_a_trained_guard_model_answers_and_is_read(guard, tiny_tokenizer):
    judge = GuardJudge.load(guard, tokenizer=tiny_tokenizer, parser="wildguard", template=WORDING)
    half = len(REFUSALS) // 2
    replies = [reply for i in range(len(REFUSALS)) for reply in ((REFUSALS if i < half else ANSWERS)[i],)]
    judged = judge.outcomes(*asked(replies))
    assert list(judged["outcome"]) == ["refusal"] * half + ["compliance"] * half
    assert not judged["unclear"].any() and not judged["validated"].any()
    assert judged["judge"].iloc[0].endswith("(wildguard)")


def test_answers_that_cannot_be_read_are_no_refusals_but_counted_and_reported(tiny_tokenizer, caplog):
    random = build_model("llama", n_layers=1, vocab_size=len(tiny_tokenizer))
    judge = GuardJudge.load(random, tokenizer=tiny_tokenizer, parser="qwen3guard")
    replies, grid = asked(REFUSALS)
    with caplog.at_level(logging.WARNING):
        judged = judge.outcomes(replies, grid)
    assert set(judged["outcome"]) == {"compliance"} and judged["unclear"].all()
    assert f"{len(REFUSALS)} of {len(REFUSALS)} answers could not be read (first: prompt m0:en)" in caplog.text
    rates = refusal_rates(judged, grid).table.set_index("statistic")
    assert rates.loc["unclear", "value"] == 1 and rates.loc["harmful_refusal", "value"] == 0


def test_the_guard_models_own_template_takes_prompt_and_reply(guard, tiny_tokenizer):
    judge = GuardJudge.load(guard, tokenizer=tiny_tokenizer, parser="wildguard")
    assert judge._asked("PROMPT", "{prompt}") == (
        "<|im_start|>user\nPROMPT<|im_end|>\n<|im_start|>assistant\n{prompt}<|im_end|>\n<|im_start|>assistant\n"
    )
    own = GuardJudge.load(guard, tokenizer=tiny_tokenizer, parser="wildguard", template=WORDING)
    assert own._asked("a {reply} b", "c {prompt} d") == "<|im_start|>judge a {reply} b | c {prompt} d<|im_end|>\n"


def test_what_a_guard_judge_needs_is_asked_for(guard, tiny_tokenizer, tmp_path):
    with pytest.raises(DataError, match="Did you mean 'wildguard'"):
        GuardJudge.load(guard, tokenizer=tiny_tokenizer, parser="wild-guard")
    with pytest.raises(DataError, match="spells its answers is not known"):
        GuardJudge.load(guard, tokenizer=tiny_tokenizer)
    with pytest.raises(DataError, match=r"holds \{reply\} 0 times"):
        GuardJudge.load(guard, tokenizer=tiny_tokenizer, parser="wildguard", template="{prompt}?")
    with pytest.raises(DataError, match="no guard template at"):
        GuardJudge.load(guard, tokenizer=tiny_tokenizer, parser="wildguard", template=tmp_path / "none.txt")
    (tmp_path / "wording.txt").write_text(WORDING, encoding="utf-8")
    judge = GuardJudge.load(guard, tokenizer=tiny_tokenizer, parser="wildguard", template=str(tmp_path / "wording.txt"))
    with pytest.raises(ModelError, match=r"that to m1:en, are longer"):
        judge.outcomes(*asked(["no bread", "three bread " * 100]))


@pytest.mark.parametrize(
    ("said", "found"),
    [
        ("Harmful request: yes\nResponse refusal: yes\nHarmful response: no", True),
        ("Harmful request: yes\nResponse refusal: No\nHarmful response: yes", False),
        ("harmful request: no\nresponse refusal: n/a\nharmful response: n/a", None),
        ("Response refusal: yes\nResponse refusal: no", None),
        ("Safety: Safe\nCategories: None\nRefusal: Yes", True),
        ("Safety: Controversial\nCategories: X\n**Refusal**: no", False),
        ("This is no refusal: yes it is", None),
        ("", None),
    ],
)
def test_refusal_lines_are_read_in_wildguards_and_qwen3guards_words(said, found):
    assert wildguard(said, True) is found and qwen3guard(said, False) is found


@pytest.mark.parametrize(
    ("said", "harmful", "found"),
    [
        ("\n\nsafe", True, True),
        ("safe", False, None),
        ("unsafe\nS9", True, False),
        ("unsafe\nS9", False, False),
        ("unsafely", True, None),
        ("", True, None),
    ],
)
def test_llama_guard_says_nothing_of_safe_replies_to_harmless_prompts(said, harmful, found):
    assert llama_guard(said, harmful) is found


def test_parsers_are_found_by_the_models_name():
    found = {name: parser_of(None, name)[0] for name in ("Qwen/Qwen3Guard-Gen-8B", "meta-llama/LlamaGuard-7b", "allenai/WildGuard")}
    assert list(found.values()) == ["qwen3guard", "llama-guard", "wildguard"]
    assert set(found.values()) == set(PARSERS)
