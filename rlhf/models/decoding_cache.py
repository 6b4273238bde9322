"""Token-by-token decoding with a key-value cache, behind one small interface with two implementations.

``TransposedCacheDecoder`` preallocates the cache with the keys stored transposed and attends with one
matrix product per key-value head; on CPU it takes two thirds of the time of the stock cache. It is used for
the architectures in ``FAST_ARCHITECTURES``, for which the tests prove that its logits equal
``model.forward``'s. Every other decoder goes through ``DynamicCacheDecoder``, the library's own cache.
Neither samples: see ``generation``.
"""

import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import AttentionInterface, Cache, DynamicCache, PreTrainedModel
from transformers.cache_utils import CacheLayerMixin
from transformers.masking_utils import AttentionMaskInterface, sdpa_mask

FAST_ARCHITECTURES = frozenset(
    {"llama", "mistral", "qwen2", "qwen3", "gpt2", "gpt_neox", "opt", "olmo2", "smollm3"}
)
"""Model types whose attention goes through the attention interface with nothing but a mask and a scale."""

_ATTENTION = "transposed_cache"


class Decoder(Protocol):
    """A batch of sequences that grows by one token at a time."""

    def prefill(self, ids: Tensor, mask: Tensor) -> Tensor:
        """Read left-padded prompts [B, P] (mask: True where real) and return the next token's logits [B,
        V]."""
        ...

    def step(self, tokens: Tensor) -> Tensor:
        """Append one token per row [B] and return the next token's logits [B, V]."""
        ...

    def keep(self, rows: Tensor) -> None:
        """Go on with these rows only (indices [B'])."""
        ...


class TransposedKeyLayer(CacheLayerMixin):
    """One layer's cache: keys [B, H, D, L] and values [B, H, L, D], preallocated for ``max_length``
    tokens."""

    is_sliding = False

    def __init__(self, max_length: int) -> None:
        super().__init__()
        self.max_length = max_length
        self.filled = 0

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        batch, heads, _, width = key_states.shape
        self.keys = key_states.new_zeros(batch, heads, width, self.max_length)
        self.values = value_states.new_zeros(batch, heads, self.max_length, width)
        self.is_initialized = True

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        assert self.keys is not None
        assert self.values is not None
        start, self.filled = self.filled, self.filled + key_states.shape[2]
        self.keys[..., start : self.filled] = key_states.transpose(-1, -2)
        self.values[:, :, start : self.filled] = value_states
        if start == 0:
            return key_states, value_states
        return self.keys[..., : self.filled].transpose(-1, -2), self.values[:, :, : self.filled]

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        return self.filled + query_length, 0

    def get_seq_length(self) -> int:
        return self.filled

    def get_max_length(self) -> int:
        return self.max_length

    def keep(self, rows: Tensor) -> None:
        assert self.keys is not None
        assert self.values is not None
        self.keys, self.values = self.keys[rows], self.values[rows]


def _attention(
    module: torch.nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """Attention for the cache above. Queries [B, H, T, D]; the mask is boolean (True = attend) and
    4-dimensional."""
    batch, heads, length, width = query.shape
    groups = heads // key.shape[1]
    if length > 1:
        key, value = key.repeat_interleave(groups, 1), value.repeat_interleave(groups, 1)
        out = F.scaled_dot_product_attention(
            query, key, value, attn_mask=attention_mask, is_causal=attention_mask is None, scale=scaling
        )
        return out.transpose(1, 2).contiguous(), None
    grouped = query.view(batch, heads // groups, groups, width)
    scores = torch.matmul(grouped, key.transpose(-1, -2)) * (width**-0.5 if scaling is None else scaling)
    if attention_mask is not None:
        scores = scores.masked_fill(~attention_mask, float("-inf"))
    return torch.matmul(scores.softmax(-1), value).view(batch, 1, heads, width), None


AttentionInterface.register(_ATTENTION, _attention)
AttentionMaskInterface.register(_ATTENTION, sdpa_mask)


class TransposedCacheDecoder:
    """The fast one. Use it inside :func:`transposed_attention`."""

    def __init__(self, model: PreTrainedModel, max_length: int) -> None:
        self._model = model
        layers = [TransposedKeyLayer(max_length) for _ in range(model.config.num_hidden_layers)]
        self._layers = layers
        self._cache = Cache(layers=[*layers])
        self._max_length = max_length

    def prefill(self, ids: Tensor, mask: Tensor) -> Tensor:
        rows, width = ids.shape
        self._visible = torch.ones(rows, 1, 1, self._max_length, dtype=torch.bool, device=ids.device)
        self._visible[:, 0, 0, :width] = mask
        positions = (mask.long().cumsum(1) - 1).clamp(min=0)
        causal = torch.ones(width, width, dtype=torch.bool, device=ids.device).tril()
        # a pad attends to itself, or its softmax would be 0/0 and poison the batch
        attend = (causal & mask[:, None, None, :]) | torch.eye(width, dtype=torch.bool, device=ids.device)
        self._positions = positions[:, -1:]
        self._filled = width
        return self._forward(ids, attend, positions)

    def step(self, tokens: Tensor) -> Tensor:
        self._positions = self._positions + 1
        self._filled += 1
        # the mask is passed even without padding: without one the model would build a causal one at every
        # step
        return self._forward(tokens[:, None], self._visible[..., : self._filled], self._positions)

    def keep(self, rows: Tensor) -> None:
        self._positions, self._visible = self._positions[rows], self._visible[rows]
        for layer in self._layers:
            layer.keep(rows)

    def _forward(self, ids: Tensor, mask: Tensor, positions: Tensor) -> Tensor:
        return self._model(
            input_ids=ids,
            attention_mask=mask,
            position_ids=positions,
            past_key_values=self._cache,
            use_cache=True,
            logits_to_keep=1,
        ).logits[:, -1]


class DynamicCacheDecoder:
    """The general one: the library's cache and the model's own attention."""

    def __init__(self, model: PreTrainedModel) -> None:
        self._model = model
        self._cache = DynamicCache(config=model.config)
        accepted = inspect.signature(model.forward).parameters
        self._takes_positions = "position_ids" in accepted
        self._keeps_last = {"logits_to_keep": 1} if "logits_to_keep" in accepted else {}

    def prefill(self, ids: Tensor, mask: Tensor) -> Tensor:
        self._mask = mask.long()
        positions = (self._mask.cumsum(1) - 1).clamp(min=0)
        self._positions = positions[:, -1:]
        return self._forward(ids, positions)

    def step(self, tokens: Tensor) -> Tensor:
        self._positions = self._positions + 1
        self._mask = F.pad(self._mask, (0, 1), value=1)
        return self._forward(tokens[:, None], self._positions)

    def keep(self, rows: Tensor) -> None:
        self._positions, self._mask = self._positions[rows], self._mask[rows]
        self._cache.batch_select_indices(rows)

    def _forward(self, ids: Tensor, positions: Tensor) -> Tensor:
        given: dict[str, Any] = {"position_ids": positions} if self._takes_positions else {}
        out = self._model(
            input_ids=ids,
            attention_mask=self._mask,
            past_key_values=self._cache,
            use_cache=True,
            **given,
            **self._keeps_last,
        )
        return out.logits[:, -1]


def supports_transposed_cache(model: PreTrainedModel, max_length: int) -> bool:
    """Whether the fast decoder's logits are known to equal ``model.forward``'s for ``max_length`` tokens.

    A layer with a sliding window attends to everything as long as the window is not exceeded.
    """
    config = model.config
    if config.model_type not in FAST_ARCHITECTURES:
        return False
    kinds = set(getattr(config, "layer_types", None) or ["full_attention"])
    window = getattr(config, "sliding_window", None)
    return kinds <= {"full_attention", "sliding_attention"} and (window is None or window >= max_length)


@contextmanager
def transposed_attention(model: PreTrainedModel) -> Iterator[None]:
    """Let the model attend through :class:`TransposedKeyLayer`; its own attention is back afterwards."""
    own = model.config._attn_implementation
    model.config._attn_implementation = _ATTENTION
    try:
        yield
    finally:
        model.config._attn_implementation = own
