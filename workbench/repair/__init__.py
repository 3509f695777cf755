"""Repair without training, measured: which prompts a gate pushes towards refusal, and what the model then answers."""
