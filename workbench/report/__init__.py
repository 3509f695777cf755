"""The page: one self-contained report per run folder."""

from workbench.report.build import build_report

__all__ = ["build_report"]
