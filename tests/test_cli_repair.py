"""``workbench repair METHOD``: what is typed wrongly is named in one paragraph, with what is expected and what to do."""

from __future__ import annotations

import pytest

from workbench import cli

SMALL = ("--prompts", "organism", "--languages", "qaa,qad", "--limit", "10")


def run(*argv) -> int:
    with pytest.raises(SystemExit) as stop:
        cli.main([str(a) for a in argv])
    return stop.value.code or 0


def refusal(capsys, *argv) -> str:
    """The one paragraph of a call that is refused."""
    assert run("repair", *argv) == 2
    said = capsys.readouterr()
    told = [line for line in said.err.splitlines() if line.strip() and "%|" not in line]
    assert len(told) == 1 and "Traceback" not in said.err and said.out == "", said
    return told[0]


@pytest.mark.parametrize(
    ("method", "wrong", "told"),
    [
        ("dpo", ("--set", "bta=0.2"), ("DPO has no setting 'bta'", "Did you mean 'beta'?")),
        ("dpo", ("--set", "beta"), ("Expected NAME=VALUE, such as beta=0.1",)),
        ("dpo", ("--set", "beta=many"), ("'beta=many'", "Expected a number, such as beta=0.1")),
        ("dpo", ("--set", "beta=-1"), ("beta=-1.0: expected a number above 0",)),
        ("sft", ("--set", "beta=1"), ("SFT has no setting 'beta'", "leave --set out")),
        ("mpo", ("--set", "reference=qad"), ("decided by --reference",)),
        ("msd", ("--set", "weighting.k=0"), ("--set 'weighting.k=0'", "expected a whole number, 2 or more")),
        ("lasa", ("--set", "signal=soruce"), ("Did you mean 'source'?",)),
        ("dpo", ("--learning-rate", "0"), ("learning_rate 0.0. Expected finite numbers above 0",)),
        ("dpo", ("--epochs", "nan"), ("epochs nan. Expected finite numbers above 0",)),
    ],
)
def test_a_setting_that_is_none_is_named_with_what_is_expected(method, wrong, told, capsys, tmp_path):
    said = refusal(capsys, method, "organism:aligned", *SMALL, *wrong, "--out", tmp_path / "run")
    assert all(part in said for part in told), said
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    "wrong",
    [("--lora-rank", "0"), ("--batch-size", "0"), ("--max-steps", "0"), ("--accumulation", "0"), ("--layer", "0"), ("--max-complying", "2"),
     ("--epochs", "two")],
)  # fmt: skip
def test_an_impossible_number_is_a_usage_error(wrong, capsys, tmp_path):
    assert run("repair", "lasa", "organism:aligned", *SMALL, *wrong, "--out", tmp_path / "run") == 2
    assert wrong[0] in capsys.readouterr().err and not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("method", "wrong", "told"),
    [
        ("dpo", ("--train-languages", "qax"), ("no prompt in 'qax'", "Expected some of qaa, qad", "Did you mean")),
        ("mpo", ("--train-languages", "qaa"), ("qaa is the only language of these preference pairs", "--train-languages")),
        ("dpo", ("--train-languages", ","), ("--train-languages names no language", "Expected some of qaa, qad")),
        ("msd", ("--train-languages", "qaa"), ("trained in qaa alone", "--train-languages", "--reference")),
        ("lasa", ("--interpreter-languages", "qzz"), ("no prompt in 'qzz'", "Expected some of qaa, qad")),
        ("lasa", ("--layer", "99"), ("--layer 99", "has 8 layers", "Expected one from 1 to 8")),
        ("dpo", ("--layer", "5"), ("--layer was given, and dpo makes no use of it", "lasa")),
        ("msd", ("--preferences", "x.csv"), ("--preferences was given, and msd makes no use of it", "leave it out")),
        ("kto", ("--reasoning",), ("--reasoning was given, and kto makes no use of it", "msd")),
        ("dpo", ("--reference", "qax"), ("'qax'", "Did you mean")),
        ("kto", ("--batch-size", "1"), ("batch_size=1. Expected at least 2", "batch_size=2")),
        ("kto", ("--batch-size", "500"), ("batch_size=500", "make the batch smaller")),
    ],
)
def test_languages_and_batches_that_cannot_be_are_named(method, wrong, told, capsys, tmp_path):
    said = refusal(capsys, method, "organism:aligned", *SMALL, *wrong, "--out", tmp_path / "run")
    assert all(part in said for part in told), said
    assert not (tmp_path / "run").exists()  # what is mended can go where this was to go


WRITTEN = {
    "empty.csv": (b"", ("empty.csv is empty", "header line")),
    "header.csv": (b"prompt,chosen,rejected,language,harmful\n", ("header.csv holds no prompts", "at least one row")),
    "columns.csv": (b"promt,chosen,rejected\na,b,c\n", ("'promt'", "expected prompt, chosen, rejected", "Rename or add prompt")),
    "bytes.csv": (bytes(range(256)), ("bytes.csv", "not UTF-8", "Save the file as UTF-8")),
    "half.json": (b'[{"prompt": "a", ', ("half.json, line 1", "not JSON", "Correct")),
    "half.jsonl": (b'{"prompt": "a", "chosen": "b", "rejected": "c"}\n{oops\n', ("half.jsonl, line 2", "not JSON")),
    "cut.parquet": (b"PAR1 cut", ("cut.parquet is not a readable Parquet file", "Write it again")),
    "pairs.txt": (b"prompt\na\n", (".txt", "expected", ".csv, .jsonl, .json, .parquet")),
    "label.csv": (
        b"prompt,chosen,rejected,language,harmful\na,b,c,qaa,perhaps\n", ("label.csv, line 2", "'perhaps'", "Expected exactly two classes"),
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", [*WRITTEN, "missing.csv", "."])
def test_a_preference_file_that_cannot_be_read_is_named_with_its_line(name, capsys, tmp_path):
    content, told = WRITTEN.get(name, (None, ("no preference pairs at", "Expected organism, or a file that ends in .csv")))
    if content is not None:
        (tmp_path / name).write_bytes(content)
    said = refusal(capsys, "dpo", "organism:aligned", *SMALL, "--preferences", tmp_path / name, "--out", tmp_path / "run")
    assert all(part in said for part in told), said
    assert not (tmp_path / "run" / "model").exists()


def test_a_model_that_is_not_there_is_named_before_anything_is_written(capsys, tmp_path):
    said = refusal(capsys, "dpo", "organism:alignd", *SMALL, "--out", tmp_path / "run")
    assert "no organism 'alignd'" in said and "Did you mean 'aligned'" in said and not (tmp_path / "run").exists()
