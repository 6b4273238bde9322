"""The base of every stage's settings: unknown keys are errors, values are immutable, fields carry their
help."""

from pydantic import BaseModel, ConfigDict


class Settings(BaseModel):
    """Base class for stage settings.

    Each field has a ``description`` (with unit and meaning): configs, the command line and the docs table are
    generated from it.
    """

    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        use_attribute_docstrings=True,
        hide_input_in_errors=True,  # a value may be a secret, and errors end in terminals and logs
    )
