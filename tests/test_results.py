"""A result comes back as it was saved, or says that it cannot."""

import pandas as pd
import pytest

from workbench.errors import DataError, StoreError
from workbench.results import Result


def test_a_result_comes_back_with_its_provenance(tmp_path):
    path = Result(pd.DataFrame({"x": [1.5]}), {"seed": 3}).save(tmp_path / "new" / "a.parquet")
    again = Result.load(path)
    assert again.table["x"].tolist() == [1.5] and again.provenance == {"seed": 3}


def test_a_damaged_or_missing_result_is_named(tmp_path):
    (tmp_path / "a.parquet").write_bytes(b"junk")
    with pytest.raises(DataError, match=r"a\.parquet is damaged .*delete it, and give the command that made the run again"):
        Result.load(tmp_path / "a.parquet")
    with pytest.raises(DataError, match=r"no result at .*b\.parquet"):
        Result.load(tmp_path / "b.parquet")


def test_a_save_that_fails_keeps_what_was_there(tmp_path, monkeypatch):
    path = Result(pd.DataFrame({"x": [1.5]})).save(tmp_path / "a.parquet")

    def full(_table, draft):
        draft.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("pyarrow.parquet.write_table", full)
    with pytest.raises(StoreError, match=r"a\.parquet cannot be written: No space left"):
        Result(pd.DataFrame({"x": [2.5]})).save(path)
    monkeypatch.undo()
    assert Result.load(path).table["x"].tolist() == [1.5]
