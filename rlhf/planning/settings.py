"""Settings of the plan: what a machine costs, and what it may use. Light on purpose: configs are validated
with this module alone."""

from pydantic import Field

from rlhf.settings import Settings


class PlanSettings(Settings):
    """What a forecast cannot find out by itself."""

    price_per_hour: float | None = Field(default=None, ge=0)
    """Price of one GPU for an hour (of the machine, where there is none), in ``currency``. Unset: no cost."""
    currency: str = "USD"
    """What the price is in; shown as it is."""
    gpus: int = Field(default=1, ge=1)
    """GPUs that are paid for while a run lasts."""
    memory_gib: float | None = Field(default=None, gt=0)
    """Memory that a step may take, in GiB: of one GPU, or of the machine where steps run on CPU. Unset: what
    this machine has; set it where steps run elsewhere."""
    runs_on: str | None = Field(default=None, pattern="^(cpu|cuda)$")
    """Where steps compute, ``cpu`` or ``cuda``. Unset: as on this machine."""
