"""A vector off its line, of another length or the other sign is not the projection it is said to be."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from workbench.directions import collinear, projection_check
from workbench.errors import DataError


@pytest.fixture
def released(rng):
    onto, source = rng.normal(size=(2, 6, 40))
    along = (source * onto).sum(axis=1) / (onto**2).sum(axis=1)
    return along[:, None] * onto, source, onto


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10**6), degrees=st.floats(0, 180), length=st.floats(0.01, 100))
def test_angle_and_length_are_told(seed, degrees, length):
    one, across = np.linalg.qr(np.random.default_rng(seed).normal(size=(12, 2)))[0].T
    angle = np.radians(degrees)
    found = collinear(length * (np.cos(angle) * one + np.sin(angle) * across), 2 * one)
    assert found.cosine == pytest.approx(np.cos(angle), abs=1e-9) and found.off_line == pytest.approx(np.sin(angle), abs=1e-9)
    assert found.ratio == pytest.approx(length * np.cos(angle) / 2, abs=1e-9 * length)
    assert found.collinear == (found.off_line <= 1e-3)


def test_true_projections_are_consistent_also_in_float16(released):
    assert projection_check(*released).consistent
    rounded = projection_check(*(v.astype(np.float16) for v in released))
    assert (rounded.table["off_line"] < 1e-3).all() and (rounded.table["verdict"] == "consistent").mean() >= 0.8


def test_each_way_of_being_wrong_has_its_name(released):
    projected, source, onto = (v.copy() for v in released)
    projected[1] *= 1.6
    projected[2] *= -1
    projected[3] += 0.01 * np.linalg.norm(projected[3]) * np.roll(onto[3], 1) / np.linalg.norm(onto[3])
    projected[4] = 0
    found = projection_check(projected, source, onto, first_layer=1)
    assert found.table["verdict"].tolist() == ["consistent", "wrong length", "sign flipped", "not collinear", "undefined", "consistent"]
    assert found.table["layer"].tolist() == [1, 2, 3, 4, 5, 6] and not found.consistent and len(found.summary()) == 4
    assert found.table["error"].iloc[1] == pytest.approx(0.6) and found.table["error"].iloc[2] == pytest.approx(2)
    assert abs(found.table["cosine"].iloc[1]) == pytest.approx(1)  # a cosine alone says nothing is wrong


def test_the_error_is_the_distance_from_the_true_projection(released, rng):
    projected, source, onto = released
    moved = projected + 0.3 * rng.normal(size=projected.shape)
    found = projection_check(moved, source, onto).table["error"]
    np.testing.assert_allclose(found, np.linalg.norm(moved - projected, axis=1) / np.linalg.norm(projected, axis=1))


def test_removing_the_component_instead_of_keeping_it_is_seen(released):
    projected, source, onto = released
    assert (projection_check(source - projected, source, onto).table["verdict"] == "not collinear").all()


def test_what_cannot_be_compared_is_refused(released):
    projected, source, onto = released
    with pytest.raises(DataError, match="same width"):
        collinear(projected[0], onto[0, :5])
    with pytest.raises(DataError, match="not finite"):
        collinear(projected[0] * np.nan, onto[0])
    with pytest.raises(DataError, match="three times"):
        projection_check(projected[:3], source, onto)
    assert not collinear(np.zeros(40), onto[0]).collinear
