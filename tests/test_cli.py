"""The command line: quick help, clear errors, and each option handed on under its name."""

from __future__ import annotations

import inspect
import json
import subprocess
import sys
from types import ModuleType, SimpleNamespace

import pytest
from fake_run import fake_tables, write_fake_run

from workbench import cli
from workbench.errors import PromptError
from workbench.report import terminal
from workbench.report.record import RunRecord
from workbench.results import Result


@pytest.fixture
def asked(monkeypatch, tmp_path):
    """Stand in for the pipeline: note the call, leave a run folder."""
    calls: dict = {}

    def diagnose(model, **options):
        calls.update(model=model, **options)
        return SimpleNamespace(folder=write_fake_run(tmp_path / "run", languages=4, layers=4, meanings=8))

    module = ModuleType("workbench.diagnosis.diagnose")
    module.diagnose = diagnose
    monkeypatch.setitem(sys.modules, module.__name__, module)
    return calls


def run(*argv) -> int:
    with pytest.raises(SystemExit) as stop:
        cli.main([str(a) for a in argv])
    return stop.value.code or 0


@pytest.mark.parametrize(
    "command",
    [(), ("demo",), ("diagnose",), ("capture",), ("report",), ("compare",), ("organism",), ("organism", "train"), ("repair",), ("repair", "gate")],
)
def test_help_shows_what_a_command_does(command, capsys):
    assert run(*command, "--help") == 0
    shown = capsys.readouterr().out
    assert "Usage: workbench" in shown
    assert len(command) != 1 or command in [("organism",), ("repair",)] or "Example" in shown


def test_help_loads_no_heavy_package():
    code = "import sys; import workbench.cli; print([m for m in ('torch', 'transformers', 'plotly', 'xarray', 'sklearn') if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "[]"


def test_demo_diagnoses_the_organism_and_ends_with_the_reports_path(asked, capsys, tmp_path):
    assert run("demo", "--out", tmp_path / "out") == 0
    assert asked == {"model": "organism:aligned", "before": "organism:helpful", "prompts": "organism", "out": tmp_path / "out"}
    lines = capsys.readouterr().out.strip().splitlines()
    assert lines[-1] == str(tmp_path / "run" / "report.html")
    assert any("qad" in line for line in lines) and any("bottleneck" in line for line in lines)
    assert (tmp_path / "run" / "report.html").exists()


def test_diagnose_hands_every_option_on_under_its_name(asked, tmp_path):
    given = dict(before="base", prompts="set", harmless="h1", harmful="h2", subset="s", tiers="t.csv", template="plain", system="be brief")
    given |= dict(limit=7, refusals="r.csv", max_new_tokens=9, null_seeds=4, seed=5, dtype="float32", device="cpu", out=str(tmp_path / "o"))
    given |= dict(steer=2, walk=3, judge="guard", judge_model="g", judge_template="t.txt", judge_fallback="markers", send_to="http://localhost/v1")
    flags = ("strip_punctuation", "redact", "trust_remote_code", "quick")
    options = [part for name, value in given.items() for part in (f"--{name.replace('_', '-')}", value)]
    options += ["--languages", "en, sw", "--reference", "en", *(f"--{flag.replace('_', '-')}" for flag in flags)]
    assert run("diagnose", "some/model", *options) == 0
    found = {name: str(value) if name in ("tiers", "refusals", "judge_template", "out") else value for name, value in asked.items()}
    assert found == given | dict(model="some/model", languages=["en", "sw"], reference=["en"]) | dict.fromkeys(flags, True)


def test_the_pipeline_accepts_every_option_of_the_command():

    from workbench.diagnosis.diagnose import diagnose

    assert set(inspect.signature(cli.diagnose).parameters) <= set(inspect.signature(diagnose).parameters)


def test_a_gate_repair_gets_every_option_under_its_name(monkeypatch, tmp_path):

    from workbench.repair import run as runner

    asked: dict = {}
    parameters = set(inspect.signature(runner.repair_gate).parameters)

    def repair_gate(model, **options):
        asked.update(model=model, **options)
        return SimpleNamespace(folder=write_fake_run(tmp_path / "run", languages=4, layers=4, meanings=8))

    monkeypatch.setattr(runner, "repair_gate", repair_gate)
    given = dict(prompts="set", k=2, draws=5, graded_draws=3, reference=["en"], languages=["en", "sw"], limit=9, seed=4, judge="markers")
    options = [
        "--prompts",
        "set",
        "--k",
        2,
        "--draws",
        5,
        "--graded-draws",
        3,
        "--reference",
        "en",
        "--languages",
        "en,sw",
        "--limit",
        9,
        "--seed",
        4,
    ]
    options += ["--judge", "markers", "--elsewhere", "one", "--elsewhere", "two:PATH", "--out", tmp_path / "o"]
    assert run("repair", "gate", "some/model", *options) == 0
    assert {name: asked[name] for name in given} == given
    assert asked["model"] == "some/model" and asked["elsewhere_sets"] == ["one", "two:PATH"] and asked["out"] == tmp_path / "o"
    assert set(asked) <= parameters


@pytest.mark.parametrize("wrong", [("--k", "0"), ("--draws", "2"), ("--graded-draws", "0"), ("--k", "four")])
def test_a_gate_repair_with_impossible_numbers_is_a_usage_error(wrong, capsys):
    assert run("repair", "gate", "organism:aligned", "--prompts", "organism", *wrong) == 2
    assert wrong[0] in capsys.readouterr().err


def test_a_known_error_is_one_paragraph_on_stderr_with_code_two(monkeypatch, capsys):
    def fail(*_, **__):
        raise PromptError("the set 'x' is unknown.\nGive NAME:PATH.")

    monkeypatch.setattr("workbench.report.build_report", fail)
    assert run("report", "runs/none") == 2
    shown = capsys.readouterr()
    assert shown.err.strip() == "the set 'x' is unknown. Give NAME:PATH." and shown.out == ""


def test_debug_shows_where_a_known_error_came_from(tmp_path):
    with pytest.raises(ValueError, match=r"no manifest\.json"):
        cli.main(["report", str(tmp_path), "--debug"])


def test_an_unknown_option_is_a_usage_error(capsys):
    assert run("report", "--no-such-option") == 2
    assert "No such option" in capsys.readouterr().err


def test_report_rebuilds_from_the_folder_alone(tmp_path, capsys):
    folder = write_fake_run(tmp_path / "run", languages=4, layers=4, meanings=8)
    assert run("report", folder) == 0
    assert capsys.readouterr().out.strip() == str(folder / "report.html")


@pytest.fixture
def two_runs(tmp_path):
    """Write two small runs with nothing that is slow to draw; the second has a language less and other prompts of the same source."""
    small = dict(languages=4, layers=3, meanings=8)
    without = tuple(set(fake_tables(**small)) - {"prompts", "verdicts", "stages", "hypotheses", "refusal", "outcomes"})
    first = write_fake_run(tmp_path / "first", without=without, **small)
    second = write_fake_run(tmp_path / "second", without=without, **(small | {"languages": 3, "meanings": 4}))
    manifest = json.loads((second / "manifest.json").read_text(encoding="utf-8"))
    manifest["spec"] |= {"prompts": {"source": "organism", "hash": "1" * 64}, "positions": ["t_inst"]}
    (second / "manifest.json").write_text(json.dumps(manifest), encoding="utf-8")
    return first, second


def test_compare_says_what_two_grids_share_and_ends_with_the_page(two_runs, tmp_path, capsys):
    assert run("compare", *two_runs, "--out", tmp_path / "page.html") == 0
    said = capsys.readouterr()
    assert "Languages in both runs: qaa, qab and qac." in said.out and "not compared: qad." in said.out
    assert "12 prompts in both, 20 only in the first, 0 only in the second" in said.out
    assert said.out.strip().splitlines()[-1] == str(tmp_path / "page.html") and said.err == ""


def test_compare_names_on_stderr_what_it_could_not_read(two_runs, tmp_path, capsys):
    (two_runs[1] / "results" / "stages.parquet").write_bytes(b"PAR1 cut")
    (two_runs[1] / "summary.json").write_text("{", encoding="utf-8")
    assert run("compare", *two_runs, "--out", tmp_path / "page.html") == 0
    said = capsys.readouterr().err
    assert "stages.parquet is damaged" in said and "summary.json is damaged" in said


@pytest.mark.parametrize("damage", ["no manifest", "half a manifest", "no folder"])
def test_compare_refuses_what_is_no_run_with_code_two(two_runs, damage, capsys):
    first, second = two_runs
    if damage == "half a manifest":
        (second / "manifest.json").write_text('{"spec": {', encoding="utf-8")
    elif damage == "no manifest":
        (second / "manifest.json").unlink()
    else:
        second = second.with_name("elsewhere")
    assert run("compare", first, second) == 2
    said = capsys.readouterr().err
    assert "manifest.json" in said and "--out" in said and not (first / "compare.html").exists()


def test_report_names_on_stderr_what_it_could_not_read(two_runs, capsys):
    (two_runs[0] / "results" / "verdicts.parquet").write_bytes(b"PAR1 cut")
    assert run("report", two_runs[0]) == 0
    said = capsys.readouterr()
    assert "verdicts.parquet is damaged" in said.err and said.out.strip() == str(two_runs[0] / "report.html")


def test_capture_hands_layers_and_positions_on(monkeypatch, tmp_path):
    calls: dict = {}
    monkeypatch.setattr("workbench.models.load.load_model", lambda model, **options: ("chat", model, options["template"]))
    monkeypatch.setattr("workbench.prompts.load_prompts", lambda spec, **options: ("grid", spec, options["limit"]))
    monkeypatch.setattr("workbench.activations.capture.capture", lambda chat, grid, **options: calls.update(chat=chat, grid=grid, **options))
    assert run("capture", "m", "--prompts", "p", "--store", tmp_path / "s.zarr", "--layers", "0,8", "--positions", "t_inst", "--limit", "3") == 0
    assert calls == dict(chat=("chat", "m", None), grid=("grid", "p", 3), layers=[0, 8], positions=["t_inst"], store=tmp_path / "s.zarr")


def test_organism_train_reads_names_and_refuses_half_of_them(monkeypatch, tmp_path, capsys):
    from workbench.organism import failures

    calls: dict = {}
    monkeypatch.setattr(failures, "train_failure", lambda name, out, **options: calls.update(name=name, out=out, **options) or out / "aligned")
    assert run("organism", "train", "--seed", "3", "--out", tmp_path, "--languages", "qaa=Fenno, qab=Marrish") == 0
    assert calls == dict(name="calibration", out=tmp_path, seed=3, names={"qaa": "Fenno", "qab": "Marrish"}, progress=True)
    assert run("organism", "train", "--languages", "qaa") == 2
    assert "TAG=Name" in capsys.readouterr().err


def test_capture_takes_out_for_store(monkeypatch, tmp_path):
    calls: dict = {}
    monkeypatch.setattr("workbench.models.load.load_model", lambda model, **options: "chat")
    monkeypatch.setattr("workbench.prompts.load_prompts", lambda spec, **options: "grid")
    monkeypatch.setattr("workbench.activations.capture.capture", lambda chat, grid, **options: calls.update(options))
    assert run("capture", "m", "--prompts", "p", "--out", tmp_path / "s.zarr") == 0
    assert calls["store"] == tmp_path / "s.zarr"


def test_what_the_system_refuses_is_one_paragraph_that_names_the_file(monkeypatch, capsys):
    def fail(*_, **__):
        raise PermissionError(13, "Permission denied", "/runs/mine/report.html")

    monkeypatch.setattr("workbench.report.build_report", fail)
    assert run("report", "runs/mine") == 2
    shown = capsys.readouterr().err.strip()
    assert shown.startswith("/runs/mine/report.html: Permission denied. Expected paths") and "\n" not in shown


def test_an_interruption_says_that_the_same_command_continues(monkeypatch, capsys):
    def stopped(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr("workbench.report.build_report", stopped)
    assert run("report", "runs/mine") == 130
    assert capsys.readouterr().err.strip() == "Stopped. What was finished is kept: the same command continues."


def test_what_the_pipeline_says_of_the_run_folder_is_shown_once(two_runs, monkeypatch, capsys):
    import logging

    monkeypatch.setattr("workbench.report.build_report", lambda folder: logging.getLogger("workbench.diagnosis.diagnose").info("it goes on"))
    for _ in range(2):
        assert run("report", two_runs[0]) == 0
        assert capsys.readouterr().err.strip() == "it goes on"


def test_a_mean_of_nothing_is_a_dash(tmp_path):
    folder = write_fake_run(tmp_path / "run", languages=5, layers=4, meanings=8)
    for name, column in (("understanding", "value"), ("thresholds", "balanced_accuracy_own")):
        path = folder / "results" / f"{name}.parquet"
        table = Result.load(path).table
        table.loc[table["tier"] == "mid", column] = float("nan")
        Result(table).save(path)
    means = terminal._tier_means(RunRecord.read(folder))
    assert means["mid"]["understood"] == "-" and means["mid"]["own"] == "-\n-"
    assert not any("nan" in text for stages in means.values() for text in stages.values())
    assert float(means["high"]["understood"]) > 0.5


@pytest.mark.parametrize("method", ["lasa", "msd", "dpo", "kto", "sft", "mpo", "mlc"])
def test_a_repair_by_training_gets_every_option_under_its_name(method, monkeypatch, tmp_path):
    from workbench.alignment import run as runner

    asked: dict = {}

    def repair_training(name, model, **options):
        asked.update(method=name, model=model, **options)
        return SimpleNamespace(folder=write_fake_run(tmp_path / "run", languages=4, layers=4, meanings=8))

    parameters = set(inspect.signature(runner.repair_training).parameters)
    monkeypatch.setattr(runner, "repair_training", repair_training)
    given = {"--prompts": "set", "--train-languages": "en, zh", "--learning-rate": "0.001", "--epochs": "2", "--batch-size": "4", "--seed": "3"}
    options = [part for pair in given.items() for part in pair]
    assert run("repair", method, "some/model", *options, "--allow-loss", "--out", str(tmp_path / "o")) == 0
    assert set(asked) <= parameters
    assert (asked["method"], asked["model"], asked["prompts"], asked["train_languages"]) == (method, "some/model", "set", ["en", "zh"])
    assert (asked["learning_rate"], asked["epochs"], asked["batch_size"], asked["seed"], asked["allow_loss"]) == (0.001, 2.0, 4, 3, True)
    assert asked["settings"] is None


def test_settings_of_a_method_are_read_from_words(capsys):
    assert run("repair", "msd", "some/model", "--prompts", "set", "--set", "on_polcy=false") == 2
    told = capsys.readouterr().err
    assert "has no setting 'on_polcy'" in told and "on_policy" in told
