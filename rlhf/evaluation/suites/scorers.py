"""Scorers of completions by name: the settings' own, or the built-in word lists."""

from collections.abc import Sequence

import numpy as np

from rlhf.evaluation.scoring import Scores, score_answers
from rlhf.evaluation.suites import lexicons
from rlhf.evaluation.suites.settings import SuitesSettings
from rlhf.models.reward_protocol import Reward

_BUILT_IN = {"sentiment": lexicons.sentiment, "toxicity": lexicons.toxicity}


class Scorers:
    """Makes each scorer when it is first asked, since some are models."""

    def __init__(self, settings: SuitesSettings) -> None:
        self._settings = settings
        self._made: dict[str, Reward] = {}

    def __call__(self, name: str, completions: Sequence[str]) -> Scores:
        """One score for each completion, without its prompt.

        Raises:
            ConfigError, ModelError: what the scorer's settings name is absent or of the wrong kind.
            EvaluationError: a score is not a finite number.
        """
        if not completions:
            return np.empty(0)
        # Tokenizers give nothing for an empty text, and classifiers need something to read.
        texts = [text or " " for text in completions]
        places = [f"completion {i}" for i in range(len(texts))]
        return score_answers(name, self._scorer(name), [""] * len(texts), texts, places)

    def _scorer(self, name: str) -> Reward:
        if name not in self._made:
            self._made[name] = self._make(name)
        return self._made[name]

    def _make(self, name: str) -> Reward:
        chosen = self._settings.scorers.get(name)
        if chosen is None:
            return _BUILT_IN[name]
        from rlhf.models.rewards import build_reward  # it loads transformers, which word lists do not need

        return build_reward(chosen)
