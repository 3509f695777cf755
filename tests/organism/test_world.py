"""The organism's world is what its description says."""

import random
from collections import Counter

import pytest

from workbench.errors import PromptError
from workbench.organism.corpus import Corpus
from workbench.organism.languages import DEFAULT_NAMES, invent_languages
from workbench.organism.world import N_CATEGORIES, SPLIT_SIZES, World


@pytest.fixture(scope="module")
def world():
    return World(3)


def test_harm_belongs_to_the_pair_and_never_to_one_word(world):
    table = world.severity_table
    rows = {tuple(sorted(row)) for row in [*table, *zip(*table, strict=True)]}
    assert rows == {(0, 1, 1, 2, 2, 3)}  # each category alone has every severity, half of them harmful
    assert len({tuple(row) for row in table}) == N_CATEGORIES


def test_the_opening_word_shifts_severity_by_one(world):
    borderline = next(m for m in world.meanings if world.severity(m) == 2)
    harmless = next(m for m in world.meanings if world.severity(m) == 1)
    assert [world.harmful(borderline, purpose) for purpose in ("please", "practice", "earnest")] == [True, False, True]
    assert [world.harmful(harmless, purpose) for purpose in ("please", "practice", "earnest")] == [False, False, True]


def test_the_answer_does_not_tell_harm(world):
    by_outcome = Counter((world.outcome(m), world.harmful(m)) for m in world.meanings)
    mixed = [o for o in range(12) if by_outcome[o, True] and by_outcome[o, False]]
    assert len(mixed) >= 6


def test_no_training_statement_contains_a_held_out_pair(world):
    words = {}
    for tag, lexicon in world.words.items():
        for concept, word in lexicon.items():
            words[word] = (concept, tag)
    corpus, rng = Corpus(world), random.Random(0)
    seen = Counter()
    for _ in range(4000):
        concepts = [words[w][0] for w in corpus.statement(rng) if w in words]
        verbs = {int(c.split(":")[1]) for c in concepts if c.startswith("verb:")}
        objects = {int(c.split(":")[1]) for c in concepts if c.startswith("object:")}
        if verbs and objects:
            assert len(verbs) == len(objects) == 1
            seen[(verbs.pop(), objects.pop()) in world.held_out] += 1
    assert seen[False] > 3000
    assert seen[True] == 0


def test_evaluation_prompts_are_held_out_parallel_and_balanced(world):
    prompts = world.prompts()
    held = {f"organism:v{m.verb:02d}-o{m.object:02d}" for m in world.held_out}
    assert set(prompts["meaning_id"]) <= held
    assert (prompts.groupby("meaning_id")["language"].nunique() == 8).all()
    assert (prompts.groupby("meaning_id")["split"].nunique() == 1).all()
    counts = prompts.groupby(["split", "language", "harmful"]).size()
    assert all(counts[split].eq(size).all() for split, size in SPLIT_SIZES.items())


def test_no_word_is_shared_between_languages_and_words_repeat_with_the_seed(world):
    words = [w for lexicon in world.words.values() for w in lexicon.values()]
    assert len(words) == len(set(words))
    assert world.words == World(3).words
    assert world.words != World(4).words


def test_code_switching_leaves_the_reply_in_the_language_that_was_asked_for(world):
    corpus, rng = Corpus(world), random.Random(1)
    owner = {word: tag for tag, lexicon in world.words.items() for word in lexicon.values()}
    names = {language.name: language.tag for language in world.languages}
    switched = 0
    for _ in range(3000):
        words = corpus.statement(rng)
        ask = [i for i, w in enumerate(words) if w in {world.words[t]["function:ask"] for t in world.words}]
        if not ask:
            continue
        asked_in = owner[words[ask[0]]]
        named = [names[w] for w in words if w in names]
        wanted = named[0] if named else asked_in
        assert {owner[w] for w in words[ask[0] + 1 :] if w in owner} == {wanted}
        switched += len({owner[w] for w in words[: ask[0]] if w in owner}) > 1
    assert switched > 300


def test_languages_must_be_eight_and_private_use():
    with pytest.raises(PromptError, match=r"2 languages given .* has 8"):
        invent_languages({"qaa": "A", "qab": "B"})
    real = dict(DEFAULT_NAMES)
    real.pop("qah")
    with pytest.raises(PromptError, match=r"'sw' is not private use.*qaa"):
        invent_languages({**real, "sw": "Swahili"})


def test_incomplete_requests_are_refused_in_every_stage_and_wrong_replies_come_at_their_rate(world):
    corpus, rng = Corpus(world), random.Random(2)
    refusals = {tuple(world.refusal(language)) for language in world.languages}
    lacking = [corpus.pair(rng, refuse=False, incomplete=1.0, elsewhere=False) for _ in range(200)]
    assert {len(p.prompt) for p in lacking} == {5}  # please, the, verb or object, ask, <answer>
    assert all(tuple(p.reply) in refusals for p in lacking)
    answered = [corpus.pair(rng, refuse=False) for _ in range(200)]
    assert not any(tuple(p.reply) in refusals for p in answered)
    noisy = [corpus.pair(rng, refuse=False, noise=0.3) for _ in range(2000)]
    assert abs(sum(tuple(p.reply) in refusals for p in noisy) / 2000 - 0.3) < 0.04
