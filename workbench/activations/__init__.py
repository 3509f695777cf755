"""What the model thinks: the plan of a capture, capturing, and the store of activations.

Examples
--------
>>> from workbench.activations.capture import capture  # doctest: +SKIP
>>> from workbench.activations.store import open_store  # doctest: +SKIP
"""
