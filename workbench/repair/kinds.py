"""The methods of a comparison by name, and what each is: ours, a rival, a control. Light, so that pictures and reports can ask."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

UNREPAIRED, ALWAYS, ORACLE, GATE = "unrepaired", "always steer", "oracle gate", "gate, shrinkage"
#: Ends the name of a method whose price of a miss is the default, not chosen on the select split.
UNPRICED = ", price not chosen"
PAPER, PRICED_AS_GIVEN, ADASTEER, ADASTEER_PROMPT = "gate, balanced F1", f"{GATE}{UNPRICED}", "AdaSteer", "AdaSteer, prompt only"

#: What a method is in the comparison; methods that are not listed are controls.
KINDS: Mapping[str, Sequence[str]] = {
    "model": (UNREPAIRED,),
    "gate": (GATE, f"{GATE}, others relaxed", PRICED_AS_GIVEN, PAPER, "gate, no examples", "gate, unlabelled"),
    "rival": (
        "one direction, shrinkage", "one direction, balanced F1", "Latent Guard, shrinkage", "Latent Guard, balanced F1", "CAST as published",
        "CAST signed, own search", "CAST signed, shrinkage", "CAST signed, balanced F1", ADASTEER, ADASTEER_PROMPT, ALWAYS,
    ),
    "ceiling": (ORACLE,),
}  # fmt: skip


def kind_of(method: str) -> str:
    """Return "model", "gate", "rival", "ceiling" or "control"; a method is the same whether its price of a miss was chosen or not."""
    return next((kind for kind, names in KINDS.items() if method.removesuffix(UNPRICED) in names), "control")
