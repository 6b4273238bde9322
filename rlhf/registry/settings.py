"""Settings of the promotion gate: which questions it asks of the evaluation, and who has the last word."""

import re
from typing import Literal, Self

from pydantic import Field, model_validator

from rlhf.settings import Settings

_PAIRED = re.compile(r"eval/([a-z][a-z0-9_]*)/(win_rate|difference)")


class Criterion(Settings):
    """One question to the evaluation.

    `superiority` and `non_inferiority` are one-sided tests over prompts, paired with the baseline named by
    `versus`. `threshold` asks whether the interval of a figure lies within bounds.
    """

    metric: str = Field(min_length=1)
    """For tests `eval/<reward>/win_rate` (share of prompts on which the policy is better, ties half) or
    `eval/<reward>/difference` (mean difference by prompt, in the reward's unit); for thresholds any figure of
    the evaluation, such as `eval/kl`, without `_low` or `_high`."""

    versus: Literal["sft", "champion", "absolute"] = "absolute"
    """What the policy is compared with: the SFT policy it came from, the champion (asked only when there is
    one), or nothing, for figures that stand alone."""

    test: Literal["superiority", "non_inferiority", "threshold"] = "threshold"
    """`superiority`: better by more than `margin`. `non_inferiority`: not worse by `margin` or more.
    `threshold`: within `minimum` and `maximum`."""

    margin: float = Field(default=0.0, ge=0.0)
    """In the metric's unit (0.05 are five points of win rate): by how much the policy has to be better, or
    how much worse it must not be."""

    effect: float | None = Field(default=None, gt=0.0)
    """Smallest effect beyond the margin that is worth having, in the metric's unit. Power is stated for it,
    and a test that rules it out has failed. Unset: 0.1 for win rates, a fifth of the differences' standard
    deviation for differences; the margin itself for non-inferiority."""

    minimum: float | None = None
    """Lower bound of a threshold, in the figure's own unit, inclusive; unset means none."""

    maximum: float | None = None
    """Upper bound of a threshold, in the figure's own unit, inclusive; unset means none."""

    alpha: float = Field(default=0.05, gt=0.0, lt=0.5)
    """Level of a test, one-sided: how often it may be met although its hypothesis is false. Thresholds use
    the evaluation's intervals, at `evaluation.confidence`."""

    power: float = Field(default=0.8, gt=0.5, lt=1.0)
    """Power for which the needed number of prompts is stated."""

    required: bool = True
    """Whether it decides. All required criteria must be met; the others are findings, corrected together by
    Holm's method, and decide nothing."""

    when: Literal["always", "champion"] = "always"
    """`champion` asks only when there is a champion, for thresholds on figures of the champion."""

    @property
    def figure(self) -> str:
        """The flat name of the figure in the evaluation report."""
        return self.metric if self.versus == "absolute" else f"{self.metric}_vs_{self.versus}"

    @property
    def paired(self) -> tuple[str, Literal["win_rate", "difference"]]:
        """Reward and kind of figure that a paired test is about."""
        found = _PAIRED.fullmatch(self.metric)
        if found is None:
            raise ValueError(f"{self.metric} is no paired figure")
        return found[1], "win_rate" if found[2] == "win_rate" else "difference"

    @property
    def needs_champion(self) -> bool:
        """Whether the question is asked only when there is a champion."""
        return self.versus == "champion" or self.when == "champion"

    @model_validator(mode="after")
    def _asks_something(self) -> Self:
        if self.metric.endswith(("_low", "_high")):
            name = re.sub(r"_vs_(sft|champion)$", "", self.metric.rsplit("_", 1)[0])
            raise ValueError(
                f"{self.metric} is one end of an interval; name the figure ({name}) and choose a test, which "
                "takes the interval into account"
            )
        if self.test == "threshold":
            self._check_bounds()
        else:
            self._check_test()
        return self

    def _check_bounds(self) -> None:
        if self.minimum is None and self.maximum is None:
            raise ValueError(f"{self.metric} has no bound; set minimum, maximum or both")
        if self.minimum is not None and self.maximum is not None and self.minimum > self.maximum:
            raise ValueError(f"{self.metric} can never pass; minimum {self.minimum} > maximum {self.maximum}")
        if self.margin or self.effect is not None:
            raise ValueError(f"{self.metric}: a threshold has bounds; margin and effect belong to the tests")

    def _check_test(self) -> None:
        if self.minimum is not None or self.maximum is not None:
            raise ValueError(f"{self.metric}: minimum and maximum belong to test: threshold; use margin")
        if self.versus == "absolute":
            raise ValueError(f"{self.metric}: {self.test} compares; set versus to sft or champion")
        if _PAIRED.fullmatch(self.metric) is None:
            raise ValueError(
                f"{self.metric} cannot be tested by prompt; name eval/<reward>/win_rate or "
                "eval/<reward>/difference, or use test: threshold"
            )
        if self.test == "non_inferiority" and self.margin == 0:
            raise ValueError(f"{self.metric}: non_inferiority needs a margin above 0, else it is superiority")
        if self.paired[1] == "win_rate" and not (self.null > 0 and self.null + (self.effect or 0) < 1):
            raise ValueError(f"{self.metric} can never pass; a win rate lies between 0 and 1")

    @property
    def null(self) -> float:
        """The value of the metric beyond which a test is met."""
        center = 0.5 if self.paired[1] == "win_rate" else 0.0
        return center + (self.margin if self.test == "superiority" else -self.margin)


class PromotionSettings(Settings):
    """When a candidate becomes the champion. By default it has to be better than both baselines."""

    criteria: tuple[Criterion, ...] = Field(
        default=(
            Criterion(metric="eval/judge/win_rate", versus="sft", test="superiority"),
            Criterion(metric="eval/judge/win_rate", versus="champion", test="superiority"),
        ),
        min_length=1,
    )
    """All required ones of these must be met."""

    mode: Literal["enforce", "dry_run", "approval"] = "enforce"
    """`enforce` carries the verdict out. `dry_run` decides and reports, and leaves the registry as it is.
    `approval` registers the candidate and waits for a person, who may only let pass what the gate let
    pass."""

    approval_hours: float = Field(default=168.0, gt=0.0)
    """How long an approval may be given, in hours from the verdict; after that the answer is no."""

    signing_key_env: str | None = Field(default=None, pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")
    """Name of the environment variable that holds the key with which verdicts are signed (HMAC-SHA256); unset
    leaves them with a digest alone, which shows accidents but no forgery."""

    @model_validator(mode="after")
    def _something_decides(self) -> Self:
        if not any(criterion.required for criterion in self.criteria):
            raise ValueError("no criterion is required, so nothing decides; set required on one of them")
        return self
