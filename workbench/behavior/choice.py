"""Which judge speaks: names that a user may give, what each needs, and what serves the languages it cannot.

=====================  ==============================================================================================
name                   judge
=====================  ==============================================================================================
auto                   per language: the user's refusals, the refusal column, phrases, else the fallback
markers                phrases (:class:`~workbench.behavior.judges.MarkerJudge`); 26 languages
stereotype             what replies to harmful prompts have in common
first_token            log-odds of a refusal's first token; languages with a token list
classifier:MODEL       a Hugging Face sequence classifier on this machine
guard:MODEL            a guard model on this machine that answers in words
endpoint               an OpenAI-compatible endpoint: ``JudgeChoice("endpoint", model=..., send_to=URL)``
=====================  ==============================================================================================
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from workbench.behavior.judges import ExactJudge, MarkerJudge, OpeningsJudge, PerLanguageJudge, StereotypeJudge, read_refusals
from workbench.behavior.markers import marked_languages, markers_of
from workbench.behavior.outcomes import Judge
from workbench.errors import DataError, PromptError, did_you_mean, shown
from workbench.prompts.cells import is_blank
from workbench.prompts.grid import PromptGrid

NAMES = ("auto", "markers", "stereotype", "first_token", "classifier", "guard", "endpoint")
#: Those that ask a model, which has to be named.
ASKING = ("classifier", "guard", "endpoint")


@dataclass(frozen=True)
class JudgeChoice:
    """A judge as a user asks for it.

    Attributes
    ----------
    judge : str
        One of :data:`NAMES`; ``classifier:MODEL`` and ``guard:MODEL`` name the model too.
    model : str or None
        Model of a classifier, guard or endpoint.
    template : path or None
        A guard model's question, with ``{prompt}`` and ``{reply}``.
    send_to : str or None
        Address of the endpoint: giving it is the consent to send prompts and replies there.
    cache : path or None
        Where the endpoint's answers are kept.
    device : str or None
        For classifiers and guard models.
    """

    judge: str = "auto"
    model: str | None = None
    template: str | Path | None = None
    send_to: str | None = None
    cache: Path | None = None
    device: str | None = None
    progress: bool = False

    def __post_init__(self) -> None:
        kind, colon, named = str(self.judge).partition(":")
        if kind not in NAMES:
            raise DataError(f"There is no judge {shown(self.judge, 64)}; there are {', '.join(NAMES)}.{did_you_mean(kind, NAMES)}")
        if colon and (kind not in ("classifier", "guard") or not named):
            raise DataError(f"judge={self.judge!r}: expected classifier:MODEL or guard:MODEL; the other names take no model behind a colon.")
        if named and self.model not in (None, named):
            raise DataError(f"judge={self.judge!r} and --judge-model {self.model!r} name two models. Give one of them.")
        object.__setattr__(self, "judge", kind)
        object.__setattr__(self, "model", named or self.model)
        self._require_what_it_needs()

    def _require_what_it_needs(self) -> None:
        if self.judge in ASKING and not self.model:
            raise DataError(
                f"The judge {self.judge!r} needs a model. Give --judge-model NAME (a directory, a hub id, or what the endpoint calls it)."
            )
        if self.model and self.judge not in ASKING:
            raise DataError(
                f"--judge-model {self.model!r} was given with the judge {self.judge!r}, which asks none. Add --judge classifier, guard or endpoint."
            )
        if self.template is not None and self.judge != "guard":
            raise DataError(f"A guard template was given with the judge {self.judge!r}. It goes with --judge guard:MODEL.")
        if self.send_to is not None and self.judge != "endpoint":
            raise DataError(f"--send-to was given with the judge {self.judge!r}, which sends nothing. Add --judge endpoint, or leave it out.")
        if self.judge == "endpoint" and self.send_to is None:
            raise DataError(
                "The endpoint judge sends the text of every prompt and reply, harmful ones included, to a server; nothing was sent. Give its address "
                "with --send-to URL if that is what you want (EndpointJudge(...).estimate says what it costs)."
            )

    def spec(self) -> dict[str, Any] | None:
        """Say what makes two requests different; None for the default."""
        if self.judge == "auto":
            return None
        from workbench.behavior import rubric

        told: dict[str, Any] = {"name": self.judge, "model": self.model, "send_to": self.send_to}
        told["template"] = None if self.template is None else Path(self.template).name
        return told | ({"rubric": rubric.version()} if self.judge == "endpoint" else {})


def as_choice(judge: Any) -> JudgeChoice | Judge:
    """Read a name, a choice, or a judge.

    Raises
    ------
    DataError
        For anything else.
    """
    if isinstance(judge, JudgeChoice):
        return judge
    if isinstance(judge, str):
        return JudgeChoice(judge)
    if callable(getattr(judge, "outcomes", None)) and hasattr(judge, "name"):
        return judge
    raise DataError(f"judge is a {type(judge).__name__}. Expected one of {', '.join(NAMES)}, a JudgeChoice, or a judge with name and outcomes().")


def spec_of(choice: JudgeChoice | Judge | None) -> dict[str, Any] | None:
    """Say what a judge, or none, adds to the identity of a request."""
    return choice.spec() if isinstance(choice, JudgeChoice) else None if choice is None else {"name": choice.name}


def sends(choice: JudgeChoice | Judge | None) -> bool:
    """Say whether a judge sends texts away from this machine."""
    if isinstance(choice, JudgeChoice):
        return choice.judge == "endpoint"
    from workbench.behavior.endpoint import EndpointJudge

    return isinstance(choice, EndpointJudge) or any(sends(judge) for judge in getattr(choice, "judges", {}).values())


def chosen_judges(grid: PromptGrid, chat: Any, refusals: str | Path | None, judge: Any, fallback: Any) -> PerLanguageJudge:
    """Do what :func:`workbench.behavior.judges.choose_judge` says."""
    choice = as_choice(judge)
    second = None if fallback is None else as_choice(fallback)
    if isinstance(second, JudgeChoice) and second.judge == "auto":
        raise DataError(f"fallback='auto': expected one judge that serves what the first one cannot: {', '.join(NAMES[1:])}.")
    if refusals is not None and not (isinstance(choice, JudgeChoice) and choice.judge in ("auto", "markers")):
        told = choice.judge if isinstance(choice, JudgeChoice) else choice.name
        raise DataError(f"A refusals file was given with the judge {told!r}, which does not read it. Leave one of them out.")
    served = _served(grid, chat, refusals, choice)
    left = [tag for tag in grid.languages if tag not in served]
    if not left:
        return PerLanguageJudge(served)
    part = grid.select(languages=left)
    if second is None:
        if not isinstance(choice, JudgeChoice) or choice.judge != "auto":
            raise PromptError(_unserved(left, choice))
        note = (
            f"No refusal phrases are known for {', '.join(left)}: there a refusal is what replies to harmful prompts have in common (a heuristic, "
            "never validated). Give --refusals FILE or --judge-fallback NAME to decide otherwise."
        )
        return PerLanguageJudge({**served, **dict.fromkeys(left, StereotypeJudge())}, (note,))
    others = _served(part, chat, None, second)
    still = [tag for tag in left if tag not in others]
    if still:
        raise PromptError(_unserved(still, second))
    note = f"{', '.join(left)}: judged by the fallback ({', '.join(dict.fromkeys(j.name for j in others.values()))})."
    return PerLanguageJudge({**served, **others}, (note,))


def _served(grid: PromptGrid, chat: Any, refusals: str | Path | None, choice: JudgeChoice | Judge) -> dict[str, Judge]:
    """Return the judge per language, for those languages that the choice can serve."""
    tags = grid.languages
    if isinstance(choice, PerLanguageJudge):
        return {tag: choice.judges[tag] for tag in tags if tag in choice.judges}
    if not isinstance(choice, JudgeChoice):
        return dict.fromkeys(tags, choice)
    if choice.judge in ("auto", "markers"):
        return _by_text(grid, refusals, column=choice.judge == "auto")
    if choice.judge == "stereotype":
        return dict.fromkeys(tags, StereotypeJudge())
    if choice.judge == "first_token":
        return _by_first_token(grid, chat)
    return dict.fromkeys(tags, _asking(choice))


def _by_text(grid: PromptGrid, refusals: str | Path | None, *, column: bool) -> dict[str, Judge]:
    given = read_refusals(refusals) if refusals is not None else {}
    frame = grid.frame
    exact = set(frame.loc[~frame["refusal"].map(is_blank), "language"]) if column and "refusal" in frame else set()
    by_file, by_column, by_marker = OpeningsJudge(given), ExactJudge(), MarkerJudge()
    judges: dict[str, Judge] = {}
    for tag in grid.languages:
        if tag in given:
            judges[tag] = by_file
        elif tag in exact:
            judges[tag] = by_column
        elif markers_of(tag) is not None:
            judges[tag] = by_marker
    return judges


def _by_first_token(grid: PromptGrid, chat: Any) -> dict[str, Judge]:
    from workbench.behavior.first_token import FirstTokenJudge, refusal_tokens

    if chat is None:
        raise DataError("The first-token judge reads the model, and none was given. Call choose_judge(grid, chat, judge='first_token').")
    tokens = refusal_tokens(chat, grid)
    tags = [tag for tag in grid.languages if tag in tokens.languages]
    return dict.fromkeys(tags, FirstTokenJudge.measure(chat, grid.select(languages=tags), tokens)) if tags else {}


def _asking(choice: JudgeChoice) -> Judge:
    from workbench.behavior.classifier import ClassifierJudge, GuardJudge
    from workbench.behavior.endpoint import EndpointJudge

    model = str(choice.model)
    if choice.judge == "classifier":
        return ClassifierJudge.load(model, device=choice.device)
    if choice.judge == "guard":
        return GuardJudge.load(model, template=choice.template, device=choice.device, progress=choice.progress)
    return EndpointJudge(str(choice.send_to), model, send_to=choice.send_to, cache=choice.cache, progress=choice.progress)


def _unserved(left: list[str], choice: JudgeChoice | Judge) -> str:
    kind = choice.judge if isinstance(choice, JudgeChoice) else choice.name
    what = {
        "markers": f"There are no refusal phrases for {', '.join(left)}; there are for {', '.join(marked_languages())}.",
        "first_token": f"There are no refusal tokens for {', '.join(left)}: neither the set's refusal column nor the model's family has any.",
    }.get(kind, f"The judge {kind} does not serve {', '.join(left)}.")
    return (
        f"{what} No other language's are used for them. Choose what judges there with --judge-fallback NAME ({', '.join(NAMES[1:])}), give openings "
        "with --refusals FILE (columns language,text), or leave these languages out."
    )
