"""The ten traps found in LASA's released code (card 1.10): one test each that none of them is here."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from planted import activations, additive
from toy_interpreter import FEW, LAYER, POSITION, toy_grid, toy_interpreter

from tests.tiny import build_model, build_tokenizer
from workbench import load_prompts
from workbench.activations.capture import capture
from workbench.alignment.conditioning import Condition, conditioned
from workbench.alignment.interpreter import SafetyInterpreter, raw_view
from workbench.alignment.interpreter_layers import compare_layers, interpreter_by_layer, reading_layer
from workbench.alignment.interpreter_network import InterpreterOptions, train_network
from workbench.alignment.interpreter_scores import score_interpreter
from workbench.alignment.sequences import encode
from workbench.errors import DataError, PromptError, StoreError, StoreMismatchError
from workbench.geometry import find_bottleneck
from workbench.geometry.cells import labels_of
from workbench.geometry.lasa import lasa_layers, select_queries
from workbench.models.chat import twin_of
from workbench.models.load import load_model
from workbench.prompts import PromptGrid


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """Keep tiny matrices off the second core."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


class Read(list):
    """Collects the rows of token ids that a model's decoder reads while it is active, without padding and generated tokens."""

    def __init__(self, chat) -> None:
        super().__init__()
        self.chat = chat

    def __enter__(self):
        def note(_module, _args, kwargs):
            ids = kwargs["input_ids"]
            if ids.shape[1] > 1:
                self.extend([token for token in row if token != self.chat.tokenizer.pad_token_id] for row in ids.tolist())

        self.hook = self.chat.parts.base.register_forward_pre_hook(note, with_kwargs=True)
        return self

    def __exit__(self, *_):
        self.hook.remove()


def test_1_the_layer_read_at_inference_is_the_layer_of_training_and_of_hidden_states(tiny_model):
    chat, grid = tiny_model("llama"), toy_grid()
    found = toy_interpreter(chat, grid)
    texts = list(grid.frame["text"][:4])
    trained_on = capture(chat, grid, layers=[LAYER], positions=[POSITION], progress=False)["residual"].values[:4, 0, 0]
    read = found.read(chat, texts)
    np.testing.assert_allclose(read, trained_on, atol=1e-5)
    for row, tokens in zip(read, chat.tokenise(texts), strict=True):
        with torch.no_grad():
            hidden = twin_of(chat.model)(input_ids=torch.tensor([tokens.ids]), output_hidden_states=True).hidden_states
        at = tokens.span(POSITION)[0]
        np.testing.assert_allclose(row, hidden[LAYER][0, at].numpy(), atol=1e-4)
        assert np.abs(row - hidden[LAYER + 1][0, at].numpy()).max() > 1e-2  # what the release would read


def test_2_a_saved_interpreter_loads_as_the_architecture_it_was_trained_with(tiny_model, tmp_path):
    from workbench.directions import files

    chat, grid = tiny_model("llama"), toy_grid()
    for width in ("deep", "simple"):
        found = toy_interpreter(chat, grid, width=width)
        back = SafetyInterpreter.load(found.save(tmp_path / f"{width}.safetensors"))
        assert back.width == width and back.n_parameters == found.n_parameters and back.threshold == found.threshold
        np.testing.assert_array_equal(back.probability(found.read(chat, grid)), found.probability(found.read(chat, grid)))
    arrays, header = files.read(tmp_path / "simple.safetensors", "workbench.interpreter", "interpreter")
    files.write(tmp_path / "mixed.safetensors", arrays, "workbench.interpreter", {**header, "width": "deep"})
    with pytest.raises(StoreError, match="not those of a 'deep' interpreter"):
        SafetyInterpreter.load(tmp_path / "mixed.safetensors")


def test_3_neither_padding_side_nor_batch_mates_change_the_vector_read(tiny_model, shared_dir):
    chat, grid = tiny_model("llama"), toy_grid()
    found, texts = toy_interpreter(chat, grid), list(grid.frame["text"])
    together = found.read(chat, texts)
    alone = np.concatenate([found.read(chat, [text]) for text in texts])
    tokenizer = copy.deepcopy(chat.tokenizer)
    tokenizer.padding_side = "left"
    left = found.read(replace(chat, tokenizer=tokenizer), texts)
    np.testing.assert_allclose(together, alone, atol=1e-5)
    np.testing.assert_array_equal(together, left)
    # the release's own index: right for padding on the right, one of the padding's side for padding on the left
    cases = json.loads(str(np.load(shared_dir / "reference" / "lasa.npz")["meta_json"]))["token_index"]
    last = {tuple(case["mask"]): case["index"] for case in cases if case["token_position"] == -1}
    assert last[1, 1, 0, 0] == 1 and last[0, 0, 1, 1] == 1
    lengths = {len(t) for t in chat.tokenise(texts)}
    assert len(lengths) > 1, "prompts of one length would not tell"


def test_4_the_best_epoch_is_kept_and_not_the_last(rng):
    states, held = rng.normal(size=(200, 6)), rng.normal(size=(100, 6))
    harmful, held_harmful = states[:, 0] + rng.normal(scale=2, size=200) > 0, held[:, 0] + rng.normal(scale=2, size=100) > 0
    options = InterpreterOptions(epochs=20, learning_rate=5e-3)
    found = train_network(states, harmful, held, held_harmful, options=options, seed=1)
    assert found.best_epoch < found.epochs
    stopped = train_network(states, harmful, held, held_harmful, options=replace(options, epochs=found.best_epoch), seed=1)
    later = train_network(states, harmful, held, held_harmful, options=replace(options, epochs=found.epochs), seed=1)
    for kept, expected, again in zip(found.network.parameters(), stopped.network.parameters(), later.network.parameters(), strict=True):
        assert torch.equal(kept, expected) and torch.equal(kept, again)


def test_5_ids_of_different_sources_never_share_a_label(tiny_model, tmp_path):
    rows = [{"language": tag, "meaning_id": str(i), "text": f"{tag} {i} bread"} for tag in ("en", "fr") for i in range(4)]
    for name, harmful, word in (("first", True, "bread"), ("second", False, "rivers")):
        table = pd.DataFrame(rows).assign(harmful=harmful, source=name)
        table.assign(text=table["text"].str.replace("bread", word)).to_csv(tmp_path / f"{name}.csv", index=False)
    grid = load_prompts(tmp_path / "first.csv", harmless=tmp_path / "second.csv")
    assert len(grid.meanings) == 8 and {m.split(":")[0] for m in grid.meanings} == {"first", "second"}
    acts = capture(tiny_model("llama"), grid, layers=[1], positions=[POSITION], progress=False)
    labels = labels_of(acts).iloc[select_queries(labels_of(acts), 10)]
    assert labels.groupby("meaning_id")["harmful"].nunique().max() == 1 and labels["meaning_id"].nunique() == 8
    frames = [pd.read_csv(tmp_path / f"{name}.csv") for name in ("first", "second")]
    with pytest.raises(PromptError, match="occurs twice"):
        PromptGrid(pd.concat(frames))
    with pytest.raises(PromptError, match="two labels"):
        PromptGrid(pd.concat([frames[0][frames[0]["language"] == "en"], frames[1][frames[1]["language"] == "fr"]]))


def test_6_the_thinking_switch_is_the_same_where_the_interpreter_reads_and_where_the_model_answers():
    tokenizer = build_tokenizer()
    tokenizer.chat_template += "{% if enable_thinking is not defined or enable_thinking %}<think>{% endif %}"
    chat = load_model(build_model("llama", vocab_size=len(tokenizer)), tokenizer=tokenizer)
    assert chat.template.options == {"enable_thinking": False}
    grid = toy_grid()
    found = toy_interpreter(chat, grid)
    score = grid.select(split="score", harmful=False)
    with Read(chat) as read:
        found.flag(chat, score)
    with Read(chat) as answered:
        conditioned(chat, found, Condition("bread")).generate(score, max_new_tokens=1, progress=False)
    assert sorted(read) == sorted(map(list, {tuple(row) for row in answered})) and len(answered) == 2 * len(score)
    thinking = replace(chat, template=replace(chat.template, options={"enable_thinking": True}))
    assert thinking.render("Hello") != chat.render("Hello")
    for ask in (lambda: found.flag(thinking, score), lambda: conditioned(thinking, found, Condition("bread"))):
        with pytest.raises(StoreMismatchError, match="template"):
            ask()
    with pytest.raises(DataError, match="thinking switch"):
        conditioned(thinking, found, Condition("bread"), reader=chat)


def test_7_the_sentence_is_the_same_tokens_in_training_and_in_inference(tiny_model):
    chat = raw_view(tiny_model("llama"))
    frame = toy_grid().frame.assign(text=lambda f: f["text"].str.replace(r"(rivers|Brot\?)$", r"\1 brea", regex=True))
    grid, condition = PromptGrid(frame), Condition("d at home")
    found = toy_interpreter(chat, grid)
    score = grid.select(split="score")
    with Read(chat) as answered:
        flagged = conditioned(chat, found, condition).flags(score)
        answered.clear()
        conditioned(chat, found, condition).generate(score, max_new_tokens=1, progress=False)
    texts = [text for text, unsafe in zip(score.frame["text"], flagged, strict=True) if unsafe]
    training = encode(chat, texts, ["Fine."] * len(texts), insert=condition.sentence)
    assert texts and all(list(example.opening_ids) in answered for example in training)
    assert all(example.insert_ids == condition.ids(chat) for example in training)
    joined = [chat.tokenizer(text + condition.sentence)["input_ids"] for text in texts]
    assert all(list(example.opening_ids) != row for example, row in zip(training, joined, strict=True)), "joining strings must cut otherwise here"


def test_8_the_bottleneck_comes_with_an_interval_and_noise_has_none(rng):
    options = {"n_languages": 6, "n": 24, "hidden": 48}
    planted = activations(additive(rng, (3, 1, 0, 0, 1, 3), (1, 2, 3, 3, 2, 1), **options), positions=["t_inst"])
    found = reading_layer(find_bottleneck(planted, permutations=60, resamples=200))
    assert found.low <= found.layer <= found.high and found.verdict == "bottleneck"
    noise = activations(additive(rng, [0] * 6, [0] * 6, **options), positions=["t_inst"])
    assert lasa_layers(noise, position="t_inst").best_layer >= 1  # the release's rule names a layer here too
    with pytest.raises(DataError, match="no bottleneck layer to read at"):
        reading_layer(find_bottleneck(noise, permutations=60, resamples=200))


def test_9_over_refusal_is_measured_on_harmless_twins_and_a_confound_shows_there(rng):
    n, hidden = 160, 12
    harmful = np.arange(n) % 2 == 0

    def states(topic: np.ndarray, harm: np.ndarray) -> np.ndarray:
        found = rng.normal(size=(2, n, 1, 1, hidden))
        found[..., 0] += 6.0 * topic[None, :, None, None]
        found[..., 1] += 6.0 * harm[None, :, None, None]
        return found

    everyday = activations(states(harmful, harmful), harmful=harmful, positions=["t_inst"])  # harmless prompts of another topic
    matched = activations(states(np.ones(n), harmful), harmful=harmful, positions=["t_inst"])  # harmless twins of the harmful ones
    confounded, careful = (SafetyInterpreter.fit(acts, 0, "t_inst", options=FEW) for acts in (everyday, matched))

    def false_alarms(interpreter: SafetyInterpreter, acts, name: str) -> float:
        table = score_interpreter(interpreter, acts, name=name).table
        assert set(table["set"]) == {name}
        return float(table.loc[table["statistic"] == "fpr", "value"].mean())

    assert false_alarms(confounded, everyday, "score") < 0.05
    assert false_alarms(confounded, matched, "twins") > 0.2
    assert false_alarms(careful, matched, "twins") < 0.05


def test_10_the_interpreter_at_other_layers_is_a_table_in_which_the_claim_can_fail(rng):
    sign = np.where(np.arange(160) % 2 == 0, 2.5, -2.5)
    states = rng.normal(size=(3, 160, 4, 1, 8))
    for layer in (1, 2, 3):  # as readable everywhere: nothing is special about a bottleneck at 2
        states[:, :, layer, 0, 0] += sign
    scores = interpreter_by_layer(activations(states, positions=["t_inst"]), languages=["qaa"], repeats=1, permutations=0, options=FEW)
    unseen = compare_layers(scores, 2).table.query("group == 'unseen'").set_index("layer")
    assert list(unseen.index) == [1, 2, 3] and (unseen["low"] > 0.8).all()
    assert set(unseen["verdict"]) == {"", "not told apart"}
    assert (unseen["difference_low"] <= 0).all() and (unseen["difference_high"] >= 0).all()
