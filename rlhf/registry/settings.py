"""Settings of the promotion gate: which figures of the evaluation must lie within which bounds."""

from typing import Literal, Self

from pydantic import Field, model_validator

from rlhf.settings import Settings


class Criterion(Settings):
    """One figure of the evaluation and the bounds it has to respect, both inclusive."""

    metric: str = Field(min_length=1)
    """Flat name of a figure in the evaluation report, such as `eval/selection/win_rate_vs_sft_low`."""

    minimum: float | None = None
    """Smallest value that passes, in the figure's own unit; unset means no lower bound."""

    maximum: float | None = None
    """Largest value that passes, in the figure's own unit; unset means no upper bound."""

    when: Literal["always", "champion"] = "always"
    """`champion` asks only when there is a champion: comparisons with one have no figure before that."""

    @model_validator(mode="after")
    def _bounds_make_sense(self) -> Self:
        if self.minimum is None and self.maximum is None:
            raise ValueError(f"{self.metric} has no bound; set minimum, maximum or both")
        if self.minimum is not None and self.maximum is not None and self.minimum > self.maximum:
            raise ValueError(f"{self.metric} can never pass; minimum {self.minimum} > maximum {self.maximum}")
        return self


class PromotionSettings(Settings):
    """When a candidate becomes the champion. By default an interval has to clear the bar."""

    criteria: tuple[Criterion, ...] = Field(
        default=(
            Criterion(metric="eval/selection/win_rate_vs_sft_low", minimum=0.5),
            Criterion(metric="eval/selection/win_rate_vs_champion_low", minimum=0.5, when="champion"),
        ),
        min_length=1,
    )
    """All of these must pass. Bounds on the `_low` end of an interval ask for evidence, not for luck."""

    mode: Literal["enforce", "dry_run"] = "enforce"
    """`dry_run` decides and reports, and leaves the registry as it is."""
