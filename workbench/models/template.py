"""From a user's text to the string the model reads: chat template, system prompt, thinking switch."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from workbench.errors import ModelCheckError, ModelError, did_you_mean

#: The declared template for base models that were never given one; ``BOS`` is filled in when the tokenizer adds one.
PLAIN = (
    "{% for message in messages %}"
    "{% if message['role'] == 'system' %}{{ message['content'] }}\n\n"
    "{% elif message['role'] == 'user' %}User: {{ message['content'] }}\n"
    "{% else %}Assistant: {{ message['content'] }}\n{% endif %}"
    "{% endfor %}{% if add_generation_prompt %}Assistant:{% endif %}"
)
#: Switches of known templates and the value that turns thinking off.
THINKING = {"enable_thinking": False, "thinking": False}
#: Templates that print today's date get this one, so that a run can be repeated tomorrow.
DATE = "26 Jul 2024"

_SENTINELS = ("Workbench probe one", "workbench probe number 2?")


@dataclass(frozen=True)
class Template:
    """How a prompt is put into words for the model.

    Attributes
    ----------
    kind : str
        ``"own"`` (the tokenizer's), ``"plain"``, ``"raw"`` (none: the text alone) or the file's name.
    text : str
        The Jinja source; empty for ``"raw"``.
    options : dict
        Variables passed besides the messages (thinking off, fixed date); JSON-serialisable.
    """

    kind: str
    text: str
    options: dict[str, Any] = field(default_factory=dict)

    @property
    def hash(self) -> str:
        """sha256 over kind of rendering, source and options (16 hex digits)."""
        content = json.dumps([self.kind == "raw", self.text, self.options], sort_keys=True)
        return hashlib.sha256(content.encode()).hexdigest()[:16]


def choose_template(tokenizer: Any, template: str | Path | Template | None, *, adds_bos: bool, name: str) -> Template:
    """Settle which template a model is asked with.

    Parameters
    ----------
    tokenizer : PreTrainedTokenizerBase
        Read, never changed.
    template : None, "plain", "raw", path of a .jinja file or Template
        None takes the tokenizer's own; another model's ``template`` asks both alike.
    adds_bos : bool
        Whether the tokenizer by itself puts a BOS token in front.
    name : str
        The model, for messages.

    Raises
    ------
    ModelError
        If there is no template, or the name is unknown.
    """
    if isinstance(template, Template):
        return template
    if template is None:
        own = tokenizer.chat_template
        if isinstance(own, dict):
            own = own.get("default")
        if not own:
            raise ModelError(
                f'{name}: its tokenizer has no chat template. A base model can be asked with the declared plain template (template="plain", '
                'on the command line --template plain), without any (template="raw"), or with a .jinja file.'
            )
        return Template("own", own, _options(own))
    if template == "raw":
        return Template("raw", "")
    if template == "plain":
        return Template("plain", ("{{ bos_token }}" if adds_bos else "") + PLAIN)
    path = Path(template)
    if not path.is_file():
        raise ModelError(
            f"No template {str(template)!r}: expected None (the tokenizer's own), 'plain', 'raw' or the path of an existing .jinja file."
            f"{did_you_mean(str(template), ['plain', 'raw'])}"
        )
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ModelError(f"The template {path} is not UTF-8 (byte {error.object[error.start]:#04x}). Save it as UTF-8.") from error
    return Template(path.name, text, _options(text))


def _options(text: str) -> dict[str, Any]:
    from jinja2 import meta
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    environment = ImmutableSandboxedEnvironment(extensions=["jinja2.ext.loopcontrols"])
    try:
        known = meta.find_undeclared_variables(environment.parse(text))
    except Exception:  # templates may use tags that only transformers defines; the plain names are still to be seen
        known = {variable for variable in (*THINKING, "date_string", "strftime_now") if variable in text}
    options: dict[str, Any] = {variable: value for variable, value in THINKING.items() if variable in known}
    if known & {"date_string", "strftime_now"}:
        options["date"] = DATE
    return options


class Renderer:
    """Renders user texts with one template and system prompt, and knows what surrounds the text.

    Parameters
    ----------
    tokenizer : PreTrainedTokenizerBase
        Its ``apply_chat_template`` is used; it is not changed.
    template : Template
        From :func:`choose_template`.
    system : str or None
        System prompt; None leaves the template's own default.
    name : str
        The model, for messages.

    Raises
    ------
    ModelError
        If the template refuses or drops the system prompt.
    ModelCheckError
        If the user's text cannot be found in what the template renders.
    """

    def __init__(self, tokenizer: Any, template: Template, system: str | None, name: str) -> None:
        self._tokenizer, self.template, self.system, self._name = tokenizer, template, system, name
        self._options = {("date_string" if name == "date" else name): value for name, value in template.options.items()}
        # transformers lets no function through as a variable, and its own strftime_now reads the clock
        still = f"{{% macro strftime_now(format) %}}{DATE}{{% endmacro %}}" if "date" in template.options else ""
        self._source = still + template.text
        self.prefix, self.suffix = "", ""
        if template.kind == "raw":
            if system is not None:
                raise ModelError(f"{name}: template='raw' has no place for a system prompt. Leave system out, or use another template.")
            return
        first, second = (self._render(probe) for probe in _SENTINELS)
        self.prefix, found, self.suffix = first.partition(_SENTINELS[0])
        if not found or second != self.prefix + _SENTINELS[1] + self.suffix:
            raise ModelCheckError(
                f"{name}: the chat template {template.kind!r} does not show the user's text once and unchanged, so positions cannot be found. "
                "Pass another template (a .jinja file, 'plain' or 'raw')."
            )
        if system is not None and system.strip() not in self.prefix + self.suffix:
            raise ModelError(
                f"{name}: the chat template {template.kind!r} drops the system prompt. Leave system out, or pass a template that shows it."
            )

    def _render(self, text: str) -> str:
        messages = [{"role": "user", "content": text}]
        if self.system is not None:
            messages.insert(0, {"role": "system", "content": self.system})
        try:
            return self._tokenizer.apply_chat_template(
                messages, tokenize=False, add_generation_prompt=True, chat_template=self._source, **self._options
            )
        except Exception as error:  # a template is code: besides Jinja's own errors it may raise any
            given = "a system prompt and a user text" if self.system is not None else "a user text"
            raise ModelError(
                f"{self._name}: the chat template {self.template.kind!r} refuses {given} ({error}). "
                f"{'Leave system out (many templates know no system role), or pass' if self.system is not None else 'Pass'} another template."
            ) from error

    def __call__(self, text: str) -> tuple[str, int, int]:
        """Render one text.

        Returns
        -------
        rendered : str
            What the model reads.
        start, end : int
            The user's text in it, as character positions; surrounding blanks that the template trims are not counted.
        """
        if self.template.kind == "raw":
            return text, 0, len(text)
        rendered = self._render(text)
        start, end = len(self.prefix), len(rendered) - len(self.suffix)
        if rendered[:start] != self.prefix or rendered[end:] != self.suffix or rendered[start:end].strip() != text.strip():
            raise ModelCheckError(
                f"the chat template {self.template.kind!r} of {self._name} changes this text or its surroundings; expected it unchanged between what "
                "stands before and after other texts. Pass another template (a .jinja file, 'plain' or 'raw'), or take the prompt out."
            )
        return rendered, start, end
