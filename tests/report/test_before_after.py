"""Before and after a training, by the diagnosis: the weights it wrote are a model like any other."""

from __future__ import annotations

import pytest

from workbench.alignment.run import repair_training
from workbench.diagnosis.diagnose import diagnose
from workbench.report.compare import compare_runs, compared


@pytest.mark.slow
def test_the_weights_of_a_training_are_diagnosed_and_compared_with_their_start(tmp_path):
    asked = {"prompts": "organism", "languages": ["qaa", "qab", "qad"], "limit": 24, "progress": False}
    trained = repair_training("msd", "organism:aligned", **asked, max_steps=12, allow_loss=True, out=tmp_path / "msd")
    quick = {**asked, "quick": True, "null_seeds": 0, "steer": 0, "walk": 0}
    runs = [
        diagnose(model, **quick, out=tmp_path / name).folder
        for model, name in (("organism:aligned", "before"), (str(trained.folder / "model"), "after"))
    ]
    found = compared(*runs)
    assert [pair.language for pair in found.verdicts] == ["qaa", "qab", "qad"]
    row = next(row for row in found.rates if (row.language, row.statistic) == ("qad", "harmful refused"))
    assert row.how == "paired, 12 prompts" and row.apart.difference > 0.2
    scored = trained.result("repair_rates").table.set_index(["method", "language", "statistic"])["value"]
    for side, method in ((found.first, "unrepaired"), (found.second, "msd")):
        rates = side.rates.set_index(["language", "statistic"])["value"]
        assert rates["qad", "harmful_refusal"] == scored[method, "qad", "harmful_refusal"], "the same prompts, judge and weights"
    assert any("Different models: organism:aligned and" in sentence for sentence in found.shared)
    assert "Verdict: first → second" in compare_runs(*runs).read_text(encoding="utf-8")
