"""On every shipped organism the diagnosis names the stage that was planted there, and nothing in the languages that are well."""

import pytest

from workbench.diagnosis.diagnose import diagnose

pytestmark = pytest.mark.slow

PLANTED = {
    "aligned": ("calibration", ""),
    "healthy": ("healthy", ""),
    "representation": ("representation", ""),
    "actuation-unrouted": ("actuation", "unrouted"),
    "actuation-unresponsive": ("actuation", "unresponsive"),
    "understanding": ("understanding", ""),
}


@pytest.mark.parametrize("name", PLANTED)
def test_the_planted_stage_is_named_in_every_low_resource_language(name, tmp_path):
    run = diagnose(f"organism:{name}", prompts="organism", quick=True, out=tmp_path / "run", progress=False)
    told = run.summary["languages"]
    found = {tag: (entry["verdict"]["verdict"], entry["verdict"]["subtype"]) for tag, entry in told.items()}
    assert found == {tag: PLANTED[name] if entry["tier"] == "low" else ("healthy", "") for tag, entry in told.items()}
