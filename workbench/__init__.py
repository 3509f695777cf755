"""Workbench: where a multilingual chat model's safety decision fails."""
