"""The figures in the terminal carry the same marks as those of the report."""

from fake_run import write_fake_run

from workbench.report import terminal
from workbench.report.record import RunRecord
from workbench.results import Result


def test_a_mean_over_a_language_whose_judge_was_not_validated_carries_the_dagger(tmp_path):
    folder = write_fake_run(tmp_path / "run", languages=8, layers=4, meanings=8)
    path = folder / "results" / "refusal.parquet"
    table = Result.load(path).table
    low, others = (table["tier"] == "low").to_numpy(), table.loc[table["tier"] != "low", "tier"].unique()
    Result(table.assign(validated=~low)).save(path)
    means = terminal._tier_means(RunRecord.read(folder))
    for stage in ("harmful_refusal", "harmless_refusal", "selectivity"):
        assert means["low"][stage].endswith(" †") and not any("†" in means[tier][stage] for tier in others)
    assert "†" not in means["low"]["understood"]
