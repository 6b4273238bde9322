"""Settings of the retraining check: how much must be new, how far feedback may drift, how old a champion may
grow. Light on purpose: configs are validated with this module alone."""

from pydantic import Field

from rlhf.settings import Settings


class RetrainingSettings(Settings):
    """When new feedback is worth a training run. Any one of the reasons is enough."""

    minimum_new_pairs: float = Field(default=100.0, gt=0)
    """New effective comparisons that call for training: settled, deduplicated comparisons of the training
    split that neither the champion nor the latest completed run was trained on, each counted with its
    confidence 2·agreement − 1. A unanimous pair counts 1, one of two votes against one a third."""
    maximum_prompt_psi: float | None = Field(default=0.25, gt=0)
    """Population stability index of the new prompts' words against the champion's training prompts above
    which they count as drifted (0.1 to 0.25 is often read as some drift, above as much). Unset: off."""
    maximum_length_ks_p: float | None = Field(default=0.001, gt=0, lt=1)
    """Two-sample Kolmogorov-Smirnov p-value of the lengths of prompts, in words, below which they count as
    drifted. Unset: off."""
    maximum_reward_ks_p: float | None = Field(default=None, gt=0, lt=1)
    """The same for the champion's proxy rewards of chosen answers. Loads the reward model, which takes
    seconds for a small one. Unset: off."""
    drift_sample: int = Field(default=500, ge=50)
    """Most prompts or answers of each side that the tests of drift look at."""
    minimum_drift_rows: int = Field(default=50, ge=10)
    """New prompts or pairs below which drift is not judged."""
    maximum_age_days: float | None = Field(default=30.0, gt=0)
    """Age of the champion, in days, from which any new comparison is enough. Unset: off."""
