"""The report in a real browser without a network: every plot must have been drawn."""

from __future__ import annotations

import re
import shutil
import subprocess

import pytest
from fake_run import write_fake_run

from workbench.report import build_report

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
FLAGS = (
    "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking --disable-component-update --disable-sync "
    "--disable-dev-shm-usage --host-resolver-rules=MAP\\ *\\ ~NOTFOUND --virtual-time-budget=20000 --window-size=1280,2000"
).replace("\\ ", "\0").split(" ")  # fmt: skip


@pytest.mark.skipif(CHROMIUM is None, reason="no chromium on this machine: install it to check that the report renders offline")
def test_every_plot_is_drawn_with_the_network_off(tmp_path):
    report = build_report(write_fake_run(tmp_path / "run", languages=4, layers=5, meanings=8))
    flags = [flag.replace("\0", " ") for flag in FLAGS]
    command = [str(CHROMIUM), *flags, f"--user-data-dir={tmp_path / 'profile'}", "--dump-dom", report.as_uri()]
    found = subprocess.run(command, capture_output=True, text=True, encoding="utf-8", timeout=180, check=True)
    dom = found.stdout
    assert len(re.findall(r'<div[^>]+class="[^"]*js-plotly-plot', dom)) == 20
    assert len(re.findall(r'<svg[^>]+class="main-svg"', dom)) >= 20
    assert "<canvas" not in dom, "a WebGL figure: browsers allow few of them per page"
