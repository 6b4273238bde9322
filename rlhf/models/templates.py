"""Chat templates that can be put on a tokenizer which has none, or the wrong one.

Both keep three promises that training and sampling rest on: the rendered prompt is a prefix of the rendered
conversation, an answer ends with EOS and nothing after it, and answers stand between ``{% generation %}``
marks.
"""

from typing import get_args

from transformers import PreTrainedTokenizerBase

from rlhf.errors import ConfigError
from rlhf.training.settings import Template

ROLE_TOKENS = {role: f"<|{role}|>" for role in ("system", "user", "assistant", "context")}
"""One special token opens a turn; the next one, or EOS after an answer, closes it."""

CHAT = (
    "{%- for message in messages -%}"
    "{%- if message['role'] == 'assistant' -%}"
    "{{- '<|assistant|>' -}}{%- generation -%}{{- message['content'] + eos_token -}}{%- endgeneration -%}"
    "{%- elif message['role'] in ['system', 'user', 'context'] -%}"
    "{{- '<|' + message['role'] + '|>' + message['content'] -}}"
    "{%- else -%}{{- raise_exception('unknown role ' + message['role']) -}}{%- endif -%}"
    "{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{- '<|assistant|>' -}}{%- endif -%}"
)

# A context message stands before its question (as in the ledger) and is printed after the instruction.
INSTRUCTION = (
    "{%- set turn = namespace(context='', gap='') -%}"
    "{%- for message in messages -%}"
    "{%- if message['role'] == 'system' -%}"
    "{{- turn.gap + message['content'] -}}{%- set turn.gap = '\n\n' -%}"
    "{%- elif message['role'] == 'context' -%}{%- set turn.context = message['content'] -%}"
    "{%- elif message['role'] == 'user' -%}"
    "{{- turn.gap + '### Instruction:\n' + message['content'] -}}"
    "{%- if turn.context -%}{{- '\n\n### Context:\n' + turn.context -}}{%- endif -%}"
    "{%- set turn.context = '' -%}{%- set turn.gap = '\n\n' -%}"
    "{%- elif message['role'] == 'assistant' -%}"
    "{{- turn.gap + '### Response:\n' -}}"
    "{%- generation -%}{{- message['content'] + eos_token -}}{%- endgeneration -%}"
    "{%- else -%}{{- raise_exception('unknown role ' + message['role']) -}}{%- endif -%}"
    "{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{- turn.gap + '### Response:\n' -}}{%- endif -%}"
)


def install_template(tokenizer: PreTrainedTokenizerBase, name: Template) -> int:
    """Put the named template on a tokenizer, in place.

    Returns:
        How many tokens were added to the vocabulary: the role tokens of ``chat``, where they were absent. The
        model's embeddings must then be resized (``rlhf.models.tokenizer.fit_model``).

    Raises:
        ConfigError: the name is unknown, or the tokenizer has no EOS token to end an answer with.
    """
    if name == "keep":
        return 0
    if name not in get_args(Template):
        raise ConfigError(f"template '{name}' is unknown; use one of {', '.join(get_args(Template))}.")
    if tokenizer.eos_token is None:
        raise ConfigError(
            f"template '{name}' ends answers with the EOS token, which this tokenizer lacks; choose a base "
            "model whose tokenizer_config.json names an eos_token."
        )
    if name == "instruction":
        tokenizer.chat_template = INSTRUCTION
        return 0
    tokenizer.chat_template = CHAT
    vocabulary = tokenizer.get_vocab()
    absent = [token for token in ROLE_TOKENS.values() if token not in vocabulary]
    return tokenizer.add_special_tokens({"extra_special_tokens": absent}) if absent else 0
