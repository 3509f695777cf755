"""The two solvers: one at the minimum, one where the paper's optimiser stops."""

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression

from workbench.errors import DataError
from workbench.gates import solvers


@pytest.fixture
def rows(rng):
    harmful = np.arange(120) < 40
    return rng.normal(size=(120, 4)) + np.outer(harmful, [1.5, 0.5, 0, 0]), harmful


@pytest.mark.parametrize("l2", [1e-4, 1e-2, 1.0])
def test_the_converged_readout_is_that_of_scikit_learn(rows, l2):
    z, harmful = rows
    weights, intercept = solvers.converged(z, harmful, l2=l2)
    model = LogisticRegression(C=1 / (len(z) * l2), tol=1e-10, max_iter=10_000).fit(z, harmful, sample_weight=np.where(harmful, 2.0, 1.0))
    assert np.allclose(weights, model.coef_[0], atol=1e-5) and intercept == pytest.approx(model.intercept_[0], abs=1e-5)


def test_the_slope_vanishes_at_the_minimum_even_where_classes_part_without_error(rows):
    z, harmful = rows
    z = z + 40 * np.outer(harmful, [1, 0, 0, 0])
    weights, intercept = solvers.converged(z, harmful, l2=1e-4)
    p = 1 / (1 + np.exp(-(z @ weights + intercept)))
    slope = z.T @ (np.where(harmful, 2.0, 1.0) * (p - harmful)) / len(z) + 1e-4 * weights
    assert np.abs(slope).max() < 1e-9


@pytest.mark.parametrize("steps", [1, 5, 80])
def test_the_papers_steps_are_torchs_adamw_with_class_weight_and_decayed_bias(rows, steps):
    z, harmful = rows
    start = np.array([0.3, -0.2, 0.5, 0.1])
    layer = torch.nn.Linear(4, 1, dtype=torch.float64)
    with torch.no_grad():
        layer.weight.copy_(torch.tensor(start)[None])
        layer.bias.zero_()
    optimiser = torch.optim.AdamW(layer.parameters(), lr=0.05, weight_decay=0.01)
    loss = torch.nn.BCEWithLogitsLoss(pos_weight=torch.tensor([2.0], dtype=torch.float64))
    for _ in range(steps):
        optimiser.zero_grad()
        loss(layer(torch.tensor(z))[:, 0], torch.tensor(harmful, dtype=torch.float64)).backward()
        optimiser.step()
    weights, intercept = solvers.paper(z, harmful, np.random.default_rng(0), steps=steps, start=start)
    assert np.allclose(weights, layer.weight.detach().numpy()[0], atol=1e-9) and intercept == pytest.approx(layer.bias.item(), abs=1e-9)


def test_the_papers_start_is_drawn_within_the_xavier_bound_and_seeded(rows):
    z, harmful = rows
    drawn = [solvers.paper(z, harmful, np.random.default_rng(seed), steps=0)[0] for seed in range(200)]
    assert 0.95 * np.sqrt(6 / 5) < np.abs(drawn).max() <= np.sqrt(6 / 5)
    first, again, other = (solvers.paper(z, harmful, np.random.default_rng(s)) for s in (0, 0, 1))
    assert (first[0] == again[0]).all() and not np.allclose(first[0], other[0], atol=1e-6)


def test_a_features_deviation_has_a_floor():
    mean, scale = solvers.standardiser(np.array([[1.0, 5.0], [3.0, 5.0]]))
    assert mean.tolist() == [2, 5] and scale.tolist() == [1, 1e-6]


def test_no_penalty_is_refused(rows):
    with pytest.raises(DataError, match="l2=0: expected a positive number"):
        solvers.converged(*rows, l2=0)
