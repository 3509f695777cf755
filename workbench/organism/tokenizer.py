"""The organism's word-level tokenizer and its chat template."""

from __future__ import annotations

from typing import TYPE_CHECKING

from workbench.organism.corpus import ANSWER
from workbench.organism.world import World

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

PAD, BOS, EOS, UNKNOWN = "<pad>", "<bos>", "<eos>", "<unk>"
SPECIAL = (PAD, BOS, EOS, UNKNOWN, ANSWER)

TEMPLATE = (
    "{{ bos_token }}"
    "{% for message in messages %}"
    "{% if message['role'] == 'user' %}{{ message['content'] }}"
    "{% elif message['role'] == 'assistant' %}" + ANSWER + " {{ message['content'] }}{{ eos_token }}"
    "{% else %}{{ raise_exception('The organism knows user and assistant turns only; leave the system prompt out.') }}{% endif %}"
    "{% endfor %}"
    "{% if add_generation_prompt %}" + ANSWER + "{% endif %}"
)


def vocabulary(world: World) -> dict[str, int]:
    """Number every word: special tokens first, then each language's words, then the languages' names."""
    words = [*SPECIAL]
    for language in world.languages:
        words += world.words[language.tag].values()
    words += [language.name for language in world.languages]
    return {word: i for i, word in enumerate(words)}


def build_tokenizer(world: World) -> PreTrainedTokenizerBase:
    """Return a Hugging Face tokenizer: one token per word, split at blanks, BOS in front of raw text."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    core = Tokenizer(models.WordLevel(vocabulary(world), unk_token=UNKNOWN))
    core.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    core.post_processor = processors.TemplateProcessing(single=f"{BOS} $A", special_tokens=[(BOS, SPECIAL.index(BOS))])
    core.decoder = decoders.WordPiece(prefix="##", cleanup=False)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=core,
        pad_token=PAD,
        bos_token=BOS,
        eos_token=EOS,
        unk_token=UNKNOWN,
        additional_special_tokens=[ANSWER],
        model_max_length=64,
        clean_up_tokenization_spaces=False,
    )
    tokenizer.chat_template = TEMPLATE
    return tokenizer
