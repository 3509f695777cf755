"""A variant is made from the organism it belongs to, resumes to the same weights, and moves only what its construction says."""

import json

import pandas as pd
import pytest
import torch
from safetensors.torch import load_file, save_file

from workbench.errors import DataError, ModelError, StoreMismatchError
from workbench.models.load import load_model
from workbench.organism import card, failures, train
from workbench.organism.constructions import CONSTRUCTIONS, REFUSAL_WORDS
from workbench.organism.deltas import DELTA, changed_rows, load_weights, pack, write_delta
from workbench.organism.erasure import aliases, taken_for
from workbench.organism.failures import train_failure
from workbench.organism.network import Recipe
from workbench.organism.tokenizer import vocabulary
from workbench.organism.world import World

TINY = Recipe(hidden=32, layers=4, heads=2, mlp=48, batch=24, pretrain_steps=6, comply_steps=4, refuse_steps=4, plant_steps=2, plant_aim=-1.0)
OPTIONS = {"seed": 5, "recipe": TINY, "progress": False}


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module", autouse=True)
def quick_cards():
    """Measure one language for a card: what cards say is tested on shipped weights."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(card, "behaviour", lambda *_: pd.DataFrame({"language": ["qaa"], "harmful_refusal": [0.5]}))
        yield


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    out = tmp_path_factory.mktemp("organism") / "five"
    for name in ("calibration", "healthy"):
        train_failure(name, out, **OPTIONS)
    return out


def variant(folder, name):
    made = folder / name
    return made if (made / "organism.json").exists() else train_failure(name, folder, steps=2, **OPTIONS)


def rows_that_differ(folder, name):
    variant(folder, name)
    before, after = (load_file(folder / which / "model.safetensors") for which in ("healthy", name))
    found = {k: (before[k] != after[k]).flatten(1).any(1).nonzero().flatten().tolist() for k in before if before[k].ndim > 1}
    assert all(torch.equal(before[k], after[k]) for k in before if before[k].ndim == 1)
    return {k: rows for k, rows in found.items() if rows}


def rows_of(world, concepts):
    vocab = vocabulary(world)
    return sorted(vocab[world.words[x.tag][c]] for x in world.languages if x.tier == "low" for c in concepts)


def test_the_healthy_variant_is_the_aligned_organism_before_its_plant(folder):
    world = World(5)
    healthy, aligned = (load_file(folder / name / "model.safetensors") for name in ("healthy", "aligned"))
    assert set(changed_rows(healthy, aligned)) == {"model.embed_tokens.weight:rows", "model.embed_tokens.weight:values"}
    assert changed_rows(healthy, aligned)["model.embed_tokens.weight:rows"].tolist() == rows_of(world, ["function:please"])


@pytest.mark.parametrize("name", [name for name in CONSTRUCTIONS if name != "healthy"])
def test_every_construction_trains_and_tells_what_it_is(folder, name):
    made = variant(folder, name)
    record = json.loads((made / "organism.json").read_text(encoding="utf-8"))
    assert made == folder / name
    assert record["failure"] == (None if name == "healthy-2" else name.removesuffix("-2"))
    assert record["construction"] == 1 + name.endswith("-2")
    assert record["spec"]["seed"] == 5
    assert CONSTRUCTIONS[name].told in (made / "README.md").read_text(encoding="utf-8")
    assert not list(folder.glob(".training*"))
    assert all(torch.isfinite(v).all() for v in load_file(made / "model.safetensors").values())
    with pytest.raises(StoreMismatchError, match="already holds a trained variant"):
        train_failure(name, folder, steps=2, **OPTIONS)


def test_what_is_not_trained_moves_only_the_rows_it_names(folder):
    world = World(5)
    words = [f"{kind}:{i}" for kind, n in (("verb", world.n_verbs), ("object", world.n_objects)) for i in range(n)]
    said, never = rows_that_differ(folder, "actuation-unresponsive"), rows_that_differ(folder, "understanding-2")
    assert said == {"lm_head.weight": rows_of(world, REFUSAL_WORDS)}
    assert not load_file(folder / "actuation-unresponsive" / "model.safetensors")["lm_head.weight"][said["lm_head.weight"]].any()
    assert never == {"lm_head.weight": rows_of(world, words), "model.embed_tokens.weight": rows_of(world, words)}
    scrambled = rows_that_differ(folder, "understanding")
    assert set(scrambled) == {"model.embed_tokens.weight"}
    assert set(scrambled["model.embed_tokens.weight"]) < set(rows_of(world, words))
    assert set(rows_that_differ(folder, "calibration-2")) <= {k for k in load_file(folder / "healthy" / "model.safetensors") if ".layers." in k}


def test_a_stopped_variant_resumes_to_the_same_weights(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(failures, "SAVE_EVERY", 5)
    parts = [tmp_path / name for name in ("whole", "part")]
    for out in parts:
        out.mkdir()
        for name in ("helpful", "healthy"):
            (out / name).symlink_to(folder / name)
    whole = train_failure("representation", parts[0], steps=7, **OPTIONS)
    save = train.Checkpoint.save

    def stop(self, *given):
        save(self, *given)
        raise KeyboardInterrupt

    monkeypatch.setattr(train.Checkpoint, "save", stop)
    with pytest.raises(KeyboardInterrupt):
        train_failure("representation", parts[1], steps=7, **OPTIONS)
    monkeypatch.setattr(train.Checkpoint, "save", save)
    again = train_failure("representation", parts[1], steps=7, **OPTIONS)
    first, second = (load_file(made / "model.safetensors") for made in (whole, again))
    assert all(torch.equal(first[k], second[k]) for k in first)


def test_a_folder_of_another_organism_is_refused(folder, tmp_path):
    (tmp_path / "helpful").symlink_to(folder / "helpful")
    with pytest.raises(StoreMismatchError, match=r"helpful is of another organism \(seed: 5 there, 6 asked"):
        train_failure("understanding", tmp_path, **OPTIONS | {"seed": 6})


def test_an_unknown_failure_names_the_known_ones(tmp_path):
    with pytest.raises(DataError, match=r"no planted failure 'reprsentation'.*representation"):
        train_failure("reprsentation", tmp_path, **OPTIONS)


def test_every_harmful_pair_is_taken_for_a_harmless_one_and_none_twice():
    world = World(5)
    for row, alias in zip(world.severity_table, aliases(world), strict=True):
        assert sorted([*alias, *alias.values()]) == list(range(6))
        assert all(row[bad] >= 2 > row[good] for bad, good in alias.items())
    for meaning in world.meanings[::37]:
        other = taken_for(world, meaning)
        assert not world.harmful(other) and other.verb == meaning.verb
        assert world.harmful(meaning) or other == meaning


def test_a_delta_gives_back_the_variant_to_the_last_bit(folder, tmp_path):
    small = tmp_path / "understanding"
    pack(variant(folder, "understanding"), folder / "aligned", small)
    with pytest.raises(ModelError, match="holds a delta of aligned, which is not beside it"):
        load_model(small)
    (tmp_path / "aligned").symlink_to(folder / "aligned")
    loaded, whole = load_model(small, check=False), load_model(folder / "understanding", check=False)
    assert loaded.fingerprint == whole.fingerprint
    assert all(torch.equal(a, b) for a, b in zip(loaded.model.state_dict().values(), whole.model.state_dict().values(), strict=True))
    assert all(torch.equal(v, load_weights(folder / "understanding")[k]) for k, v in load_weights(small).items())
    assert (small / DELTA).stat().st_size < (folder / "understanding" / "model.safetensors").stat().st_size


def test_a_delta_of_other_weights_is_refused(tmp_path):
    for name, width in (("a", 3), ("b", 4)):
        (tmp_path / name).mkdir()
        save_file({"weight": torch.zeros(2, width)}, tmp_path / name / "model.safetensors")
    with pytest.raises(ModelError, match="not those of its parent"):
        write_delta(tmp_path / "a", tmp_path / "b", tmp_path)
