"""Repair by training: preference losses, self-distillation and semantic conditioning, measured like every other repair."""
