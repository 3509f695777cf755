"""A refused write names the file and the remedy."""

import pytest

from workbench.errors import StoreError, did_you_mean, writing


def test_a_full_disk_names_the_file_the_reason_and_the_remedy(tmp_path):
    told = r"table\.parquet cannot be written: No space left on device.*free some.*kept"
    with pytest.raises(StoreError, match=told), writing(tmp_path / "table.parquet"):
        raise OSError(28, "No space left on device")


def test_other_errors_pass_through_a_write():
    with pytest.raises(ZeroDivisionError), writing("x"):
        raise ZeroDivisionError


def test_far_spellings_are_not_suggested():
    assert did_you_mean("multijial", ["multijail", "xsafety"]) == " Did you mean 'multijail'?"
    assert did_you_mean("zzz", ["multijail", "xsafety"]) == ""
