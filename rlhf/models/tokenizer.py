"""Tokenizers: a byte-level BPE trained on the text at hand, and a padding token for those that lack their
own.

Turning prompts into ids is not done here but in ``rlhf.models.chat``.
"""

from collections.abc import Iterable, Iterator
from typing import cast

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from torch import nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase, PreTrainedTokenizerFast

from rlhf.errors import ConfigError, DataError
from rlhf.models.templates import ROLE_TOKENS, install_template

PAD, EOS = "<|pad|>", "<|end|>"

# The split of Qwen2 (GPT-4's with single digits): a digit is a token, so numbers can be copied digit by
# digit.
_WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"
    r"|\s+(?!\S)|\s+"
)
# Tokens that vocabularies reserve for padding or for nothing, in order of preference.
_PADDING_NAMES = (
    "<pad>", "[PAD]", "<|pad|>", "<|padding|>", "<|finetune_right_pad_id|>", "<|fim_pad|>", "<|reserved_0|>",
    "<|reserved_special_token_0|>", "<|endoftext|>", "<unk>", "[UNK]",
)  # fmt: skip


def train_tokenizer(
    texts: Iterable[str], *, vocabulary_size: int, max_length: int
) -> PreTrainedTokenizerFast:
    """A byte-level BPE with EOS, a padding token of its own, one token per chat role and the ``chat``
    template.

    Any text can be encoded and decoded without loss; digits stand alone.

    Args:
        vocabulary_size: tokens at most, special ones included.
        max_length: longest sequence of the model, in tokens.

    Raises:
        DataError: there is no text.
    """
    counted = _Counted(texts)
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_WORDS), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    backend.decoder = decoders.ByteLevel()
    backend.train_from_iterator(
        counted,
        trainers.BpeTrainer(
            vocab_size=vocabulary_size,
            special_tokens=[PAD, EOS, *ROLE_TOKENS.values()],
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        ),
    )
    if not counted.characters:
        raise DataError("There is no text to train a tokenizer on; add a text source or demonstrations.")
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend,
        pad_token=PAD,
        eos_token=EOS,
        extra_special_tokens=list(ROLE_TOKENS.values()),
        model_max_length=max_length,
        padding_side="left",
        clean_up_tokenization_spaces=False,
    )
    install_template(tokenizer, "chat")
    return tokenizer


class _Counted:
    """Counts the characters that pass, so that a generator need not be read twice."""

    def __init__(self, texts: Iterable[str]) -> None:
        self._texts = texts
        self.characters = 0

    def __iter__(self) -> Iterator[str]:
        for text in self._texts:
            self.characters += len(text)
            yield text


def ensure_pad_token(tokenizer: PreTrainedTokenizerBase, name: str | None = None) -> int:
    """Give a tokenizer a padding token that differs from EOS, in place.

    With padding equal to EOS a classification head reads the token before EOS, and a collator that masks
    padding hides the end of every answer. A reserved token of the vocabulary is preferred to a new one.

    Args:
        name: an existing token to use; by default one is found, or ``<|pad|>`` is added.

    Returns:
        How many tokens were added to the vocabulary (0 or 1).

    Raises:
        ConfigError: ``name`` is not in the vocabulary, or is EOS.
    """
    vocabulary = tokenizer.get_vocab()
    if name is not None:
        if name not in vocabulary or name == tokenizer.eos_token:
            fault = "the EOS token" if name == tokenizer.eos_token else "not in the vocabulary"
            raise ConfigError(
                f"pad_token '{name}' is {fault}; name another token of the vocabulary, or leave it out."
            )
        tokenizer.pad_token = name
        return 0
    if tokenizer.pad_token is not None and tokenizer.pad_token_id != tokenizer.eos_token_id:
        return 0
    for candidate in _PADDING_NAMES:
        if candidate in vocabulary and candidate not in (tokenizer.eos_token, tokenizer.bos_token):
            tokenizer.pad_token = candidate
            return 0
    return tokenizer.add_special_tokens({"pad_token": PAD})


def fit_model(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
    """Make a model agree with its tokenizer, in place: embeddings for added tokens, padding, EOS and BOS ids.

    New rows are drawn around the mean of the old ones (``mean_resizing`` of transformers) from the global
    random state: seed it first.
    """
    rows = cast(nn.Embedding, model.get_input_embeddings()).num_embeddings
    if len(tokenizer) > rows:
        model.resize_token_embeddings(len(tokenizer))
    generation = getattr(model, "generation_config", None)
    for config in filter(None, (model.config.get_text_config(), generation)):
        config.pad_token_id = tokenizer.pad_token_id
        # Some models stop at several tokens; keep the others.
        known = config.eos_token_id if isinstance(config.eos_token_id, list) else [config.eos_token_id]
        if tokenizer.eos_token_id not in known or len(known) == 1:
            config.eos_token_id = tokenizer.eos_token_id
        if tokenizer.bos_token_id is not None:
            config.bos_token_id = tokenizer.bos_token_id
