"""The direction that refusals are tuned to pass along: where it comes from, what its removal does, and that it travels with the weights."""

import pytest
import torch

from workbench.organism.network import Recipe, build_model
from workbench.organism.refusal import PLANTED, harm_axis, kept_layer, load_planted, save_planted, without
from workbench.organism.tokenizer import vocabulary
from workbench.organism.world import PROMPTS_FILE, World


@pytest.fixture(scope="module")
def world():
    return World(0)


@pytest.fixture(scope="module")
def model(world):
    return build_model(world, Recipe(hidden=32, layers=3, heads=2, mlp=48), 0).eval()


def test_with_the_direction_removed_no_layer_has_a_component_along_it_and_the_hooks_leave(model, world):
    unit = torch.nn.functional.normalize(torch.randn(32, generator=torch.Generator().manual_seed(1)), dim=0)
    ids = torch.arange(5, 25).view(2, 10)
    plain = model(input_ids=ids).logits
    for layer in range(4):
        with without(model, unit), kept_layer(model, layer) as found, torch.no_grad():
            model(input_ids=ids)
        assert (found[0] @ unit).abs().max() < 1e-5 * found[0].norm(dim=-1).max()
    assert torch.equal(model(input_ids=ids).logits, plain)


def test_the_harm_axis_is_the_difference_in_means_that_the_library_finds(world):
    from workbench.activations.capture import capture
    from workbench.directions import harm_direction
    from workbench.models.load import load_model
    from workbench.prompts.sources import load_prompts

    chat = load_model("organism:helpful")
    grid = load_prompts("organism").select(split="fit", languages=["qaa", "qab", "qac"])
    found = harm_direction(capture(chat, grid, layers=[5], progress=False), ["qaa", "qab", "qac"]).at(5, "t_post_inst")
    axis = harm_axis(chat.model, world, vocabulary(world), layer=5, seed=0).double().numpy()
    assert float(found.unit @ axis) > 0.93  # other meanings (100 per class, never trained on), the same place


def test_the_shipped_direction_is_the_axis_of_the_helpful_model(world):
    from workbench.models.load import load_model

    folder = PROMPTS_FILE.parent
    recipe = Recipe()
    axis = harm_axis(load_model(folder / "helpful").model, world, vocabulary(world), layer=recipe.refusal_layer, seed=0)
    assert torch.allclose(load_planted(folder / "aligned"), axis, atol=1e-4)


def test_it_is_kept_beside_the_weights(tmp_path):
    unit = torch.nn.functional.normalize(torch.arange(8.0), dim=0)
    save_planted(tmp_path, unit)
    assert (tmp_path / PLANTED).exists()
    assert torch.equal(load_planted(tmp_path), unit)


def test_the_same_seed_gives_the_same_axis(model, world):
    vocab = vocabulary(world)
    first, again, other = (harm_axis(model, world, vocab, layer=2, seed=s) for s in (0, 0, 1))
    assert torch.equal(first, again) and not torch.equal(first, other)
    assert float(first.norm()) == pytest.approx(1.0, abs=1e-6)
