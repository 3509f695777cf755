"""The organism's code-switched requests: the same meanings in mixed words, the same on every machine, offered by name."""

import numpy as np
import pytest

from workbench.errors import PromptError
from workbench.organism.switched import code_switched_prompts
from workbench.organism.world import World
from workbench.prompts.sources import load_prompts


@pytest.fixture(scope="module")
def table():
    return code_switched_prompts()


def test_they_are_the_scored_requests_with_their_labels_and_keys(table):
    plain = load_prompts("organism").select(split="score").frame
    shared = ["meaning_id", "language", "harmful", "category", "split", "tier", "severity", "answer", "refusal"]
    assert table[shared].to_dict("list") == plain[shared].to_dict("list")
    assert len(table) == 3200 and not set(table["meaning_id"]) & set(load_prompts("organism").select(split="fit").meanings)


def test_each_content_word_is_replaced_with_its_probability_and_nothing_else_is(table):
    world = World()
    owner = {word: (tag, concept) for tag, lexicon in world.words.items() for concept, word in lexicon.items()}
    switched = 0
    for text, tag, count in zip(table["text"], table["language"], table["switched"], strict=True):
        words = [owner[word] for word in text.split()]
        foreign = [concept for spoken, concept in words if spoken != tag]
        assert all(concept.split(":")[0] in ("verb", "object") for concept in foreign) and len(foreign) == count
        switched += count
    assert switched / (2 * len(table)) == pytest.approx(0.45, abs=0.02)
    assert {tuple(sorted(c for _, c in map(owner.get, t.split()))) for t in table["text"][:8]} == {
        tuple(sorted(c for _, c in map(owner.get, " ".join(world.request(world.evaluation_meanings()["score"][0], la)).split())))
        for la in world.languages
    }, "what is asked stays"


def test_they_depend_on_the_seed_alone(table):
    assert code_switched_prompts().equals(table)
    other = code_switched_prompts(seed=1)
    assert (other["text"] != table["text"]).mean() > 0.5
    assert np.array_equal(other["meaning_id"], table["meaning_id"])


def test_they_are_offered_as_a_prompt_set():
    grid = load_prompts("organism:code-switched", languages="qaa,qad", limit=5)
    assert grid.languages == ["qaa", "qad"] and len(grid) == 20 and set(grid.frame["split"]) == {"score"}
    assert grid.provenance["prompts"] == "organism:code-switched" and grid.hash != load_prompts("organism", languages="qaa,qad", limit=5).hash
    with pytest.raises(PromptError, match=r"nothing at code-swiched\. .*or organism:code-switched; check the path\. Did you mean 'code-switched'"):
        load_prompts("organism:code-swiched")
