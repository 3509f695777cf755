"""How many labels a language needs: paired draws, honest intervals, and nothing scored that examples came from."""

import numpy as np
import pytest
from planted import activations, with_harm

from workbench.errors import DataError
from workbench.gates import BalancedF1, ConformalMiss, GateData, LabelCurve, MomentMatching, RecalibratedGate, gate_data, label_curve


@pytest.fixture
def acts(rng):
    states, _ = with_harm(rng, 4.0, n_languages=4, n=160, n_layers=3, shift=np.array([0, 0, 0, -3.0]))
    return activations(states)


@pytest.fixture
def data(acts):
    return gate_data(acts, 2, "t_inst")


@pytest.fixture
def gate(data):
    return RecalibratedGate().fit(data.select(split="fit", languages=["qaa", "qab", "qac"]))


def cell(table, **where):
    (row,) = table.query(" and ".join(f"{name} == {value!r}" for name, value in where.items())).to_dict("records")
    return row


def test_a_row_is_the_mean_over_draws_of_what_recalibrating_gives(gate, data):
    table = label_curve(gate, data, "qad", [2], [BalancedF1()], 5, np.random.default_rng(3)).table
    seeds = np.random.default_rng(3).integers(2**63, size=5)
    scored = data.select(split="score", languages="qad")
    miss = []
    for seed in seeds:
        new = gate.recalibrate(data.select(split="select").draw(2, "qad", np.random.default_rng(int(seed))))
        miss.append((~new.predict(scored)[scored.y]).mean())
    row = cell(table, statistic="miss")
    assert row["mean"] == pytest.approx(np.mean(miss)) and row["draw_90"] == pytest.approx(np.quantile(miss, 0.9))
    assert (row["labels"], row["draws"], row["n_harmful"], row["n_harmless"]) == (4, 5, 20, 20)
    rates = {s: cell(table, statistic=s)["mean"] for s in ("tpr", "fpr", "balanced_accuracy")}
    assert rates["tpr"] == pytest.approx(1 - row["mean"]) and rates["balanced_accuracy"] == pytest.approx((1 + rates["tpr"] - rates["fpr"]) / 2)


def test_more_labels_help_a_shifted_language_and_unlabelled_matching_needs_none(gate, data):
    curve = label_curve(gate, data, ["qad"], [0, 1, 16], [BalancedF1(), MomentMatching(), ConformalMiss(0.05)], 12, np.random.default_rng(0))
    accuracy = {k: cell(curve.table, k=k, policy="balanced_f1", statistic="balanced_accuracy")["mean"] for k in (0, 1, 16)}
    assert accuracy[0] + 0.2 < min(accuracy[1], accuracy[16]) and accuracy[0] < 0.75
    blind = cell(curve.table, k=0, policy="moment_matching", statistic="balanced_accuracy")
    assert blind["mean"] > 0.85 and blind["labels"] == 0 and blind["difference_low"] > 0
    sure = cell(curve.table, k=16, policy="conformal_miss", statistic="miss")
    kept = cell(curve.table, k=0, policy="balanced_f1", statistic="miss")
    assert sure["abstained"] == 1 and sure["mean"] == pytest.approx(kept["mean"])  # the threshold in force
    assert list(curve.summary().columns[:3]) == ["language", "statistic", "policy"]


def test_the_baseline_differs_from_itself_by_nothing(gate, data):
    table = label_curve(gate, data, "qad", [1], [BalancedF1(), BalancedF1(as_released=True)], 4, np.random.default_rng(0)).table
    assert (table[["difference", "difference_low", "difference_high"]] == 0).all(axis=None)  # at k = 1 round-off decides nothing
    assert table["policy"].nunique() == 2


def test_intervals_hold_the_value_and_keep_a_width_where_nothing_ever_varied(gate, data):
    easy = GateData(data.X + 50 * np.outer(data.y, gate.basis_[:, 0]), data.y, data.language, data.meaning_id, data.prompt_id, data.split, data.place)
    table = label_curve(gate, easy, "qaa", [4], [BalancedF1()], 4, np.random.default_rng(0)).table
    row = cell(table, statistic="miss")
    assert row["mean"] == 0 and row["low"] == 0 and 0.1 < row["high"] < 0.25  # 20 of 20 is not certainty
    assert (table["low"] <= table["mean"]).all() and (table["mean"] <= table["high"]).all()


def test_the_order_of_rows_changes_nothing(gate, data):
    mixed = data.take(np.random.default_rng(9).permutation(len(data)))
    a, b = (label_curve(gate, d, "qad", [0, 2], [BalancedF1()], 4, np.random.default_rng(0)).table for d in (data, mixed))
    assert np.allclose(a[["mean", "low", "high"]], b[["mean", "low", "high"]])


def test_a_curve_survives_the_disk(gate, data, tmp_path):
    curve = label_curve(gate, data, "qad", [1], [BalancedF1()], 3, np.random.default_rng(0))
    back = LabelCurve.load(curve.save(tmp_path / "curve.parquet"))
    assert back.table.equals(curve.table) and back.provenance["place"]["fingerprint"] == "f0" and back.provenance["examples"] == "select"


def test_bad_requests_are_refused(gate, data, acts):
    def ask(rows=data, **changed):
        given = {"language": "qad", "ks": [1], "policies": [BalancedF1()], "draws": 3, "rng": np.random.default_rng(0)} | changed
        return label_curve(gate, rows, **given)

    for changed, match in (
        ({"ks": [21]}, "there are 20 and 20 meanings"),
        ({"ks": [0.5]}, "expected whole numbers"),
        ({"language": "qaz"}, "Did you mean"),
        ({"examples": "score"}, "from the meanings that are scored"),
        ({"examples": "train"}, "No prompt has split 'train'"),
        ({"draws": 1}, "3 or more"),
        ({"policies": [BalancedF1(), BalancedF1()]}, "each once"),
        ({"rows": gate_data(acts, 1, "t_inst")}, "fitted elsewhere"),
        ({"rows": data.take(data.y | (data.split != "score"))}, "same label"),
    ):
        with pytest.raises(DataError, match=match):
            ask(**changed)
    mixed = GateData(data.X, data.y, data.language, np.array([m[:2] for m in data.meaning_id]), data.prompt_id, data.split, data.place)
    with pytest.raises(DataError, match="are in both splits"):
        ask(mixed)


@pytest.mark.slow
def test_the_interval_covers_the_rate_on_fresh_meanings_and_draws():
    """Gaussian scores, k = 2, 20 draws, 60 scored prompts of either class; the truth from 4,000 draws. Nominal 95 %.

    Balanced accuracy is covered as often; the miss rate, whose draws are skewed, in nine of ten.
    """
    rng, source = np.random.default_rng(0), np.random.default_rng(1)
    y = np.arange(400) < 200
    gate = RecalibratedGate().fit(source.normal(size=(400, 2)) + np.outer(y, [2.0, 0.0]), y, language="qaa")

    def sample(n):
        labels = np.arange(2 * n) < n
        X = rng.normal(size=(2 * n, 2)) + np.outer(labels, [2.0, 0.0]) - [1.0, 0.0]
        return X, labels

    def rows(X, labels, split, at):
        names = np.array([f"{split}{at}-{i}" for i in range(len(labels))])
        return dict(X=X, y=labels, language=np.full(len(labels), "qad"), meaning_id=names, prompt_id=names, split=np.full(len(labels), split))

    truth = []
    fresh = gate.decision_function(sample(20_000)[0])
    for _ in range(4000):
        X, labels = sample(2)
        z = gate.decision_function(X)
        t = BalancedF1().choose(z[labels], z[~labels], gate.context("qad")).threshold
        miss = (fresh[:20_000] < t).mean()
        truth.append((miss, 1 - (miss + (fresh[20_000:] >= t).mean()) / 2))
    place = gate_data(activations(with_harm(rng, 1.0, n_languages=1, n=8)[0]), 1, "t_inst").place
    covered, widths = [], []
    for at in range(150):
        parts = [rows(*sample(n), split, at) for n, split in ((300, "select"), (60, "score"))]
        data = GateData(**{name: np.concatenate([p[name] for p in parts]) for name in parts[0]}, place=place)
        table = label_curve(gate, data, "qad", [2], [BalancedF1()], 20, np.random.default_rng(at)).table
        found = [cell(table, statistic=s) for s in ("miss", "balanced_accuracy")]
        covered.append([row["low"] <= true <= row["high"] for row, true in zip(found, np.mean(truth, axis=0), strict=True)])
        widths.append([row["high"] - row["low"] for row in found])
    miss, accuracy = np.mean(covered, axis=0)
    assert miss >= 0.85 and accuracy >= 0.9 and (np.median(widths, axis=0) < 0.25).all(), (miss, accuracy, np.median(widths, axis=0))
