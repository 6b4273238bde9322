"""Settings of annotation servers as feedback sources: where the server is, who asks, and what its fields and
questions mean. Light: no HTTP client is imported."""

from collections.abc import Mapping
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, NonNegativeInt, PositiveFloat, PositiveInt, model_validator

from rlhf.settings import Settings

QuestionKind = Literal[
    "demonstration", "comparison", "ranking", "rating", "label", "text-edit", "prompt-edit", "unused"
]
ServerUrl = Annotated[str, Field(pattern=r"^https?://[^@]+$"), AfterValidator(lambda url: url.rstrip("/"))]
"""Without credentials: those come from the environment."""
TIE = "tie"


class QuestionSettings(Settings):
    """What the answers to one question are."""

    kind: QuestionKind
    """Kind of annotation row. ``prompt-edit`` makes no row: the annotator's text takes the place of a prompt
    field in the annotator's other rows of that record. ``unused`` leaves the question out."""
    field: str | None = None
    """The response field that is rated, labelled or edited; for ``prompt-edit`` the field of the prompt."""
    options: Mapping[str, str] = Field(default_factory=dict)
    """For ``comparison`` and ``ranking``: each option of the question with the response field that it stands
    for, or ``tie``. Options that are called like a response field need no entry."""

    @model_validator(mode="after")
    def _options_are_for_choosing(self) -> "QuestionSettings":
        if self.options and self.kind not in ("comparison", "ranking"):
            raise ValueError(f"options belong to comparisons and rankings, not to {self.kind}")
        if self.field is not None and self.kind in ("comparison", "ranking", "demonstration", "unused"):
            raise ValueError(f"field has no meaning for {self.kind}")
        return self


class MappingSettings(Settings):
    """What fields and questions mean; what is left out is guessed from their names and types, and the guess
    is logged."""

    system: str | None = None
    """Field with a system message."""
    context: tuple[str, ...] | None = None
    """Fields with reference text that stands before the prompt."""
    prompt: str | None = None
    """Field with the prompt, text or chat. A chat that ends in an assistant turn, in a record without
    response fields, is a prompt and its response."""
    responses: tuple[str, ...] | None = None
    """Fields with responses to the prompt."""
    questions: Mapping[str, QuestionSettings] = Field(default_factory=dict)
    """Questions by name."""


class _ServerSource(Settings):
    """What all annotation servers have in common."""

    key_variable: str = Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")
    """Name of the environment variable that holds the key; the key itself is never in a config."""
    name: str | None = Field(default=None, min_length=1)
    """Name of the source in rows and reports."""
    license: str | None = Field(default=None, min_length=1)
    """Licence of the data, such as `CC-BY-4.0`, for the model card."""
    annotators: Literal["name", "id"] = "name"
    """Whether annotators appear by user name or by the server's id of them, as a pseudonym. Names need a key
    that may list users."""
    mapping: MappingSettings = MappingSettings()
    """What fields and questions mean."""
    patience_seconds: PositiveFloat = 60.0
    """How long a request is tried again while the server is away or overloaded, in seconds."""
    timeout_seconds: PositiveFloat = 60.0
    """Longest wait for one answer, in seconds."""


class ArgillaSource(_ServerSource):
    """A dataset on an Argilla 2 server."""

    type: Literal["argilla"] = "argilla"
    api_url: ServerUrl
    """Address of the server, such as ``https://argilla.example.org``."""
    key_variable: str = Field(default="ARGILLA_API_KEY", pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")
    """Name of the environment variable that holds an owner's or admin's API key; the key itself is never in
    a config."""
    workspace: str = Field(min_length=1)
    """Workspace of the dataset."""
    dataset: str = Field(min_length=1)
    """Name of the dataset."""
    page_size: int = Field(default=500, ge=2, le=1000)
    """Records asked for at once; the server's limit is 1000."""

    @property
    def source_name(self) -> str:
        """The name its rows carry."""
        return self.name or self.dataset

    @property
    def identity(self) -> Mapping[str, str]:
        """Where its rows come from, whatever the manner of reading."""
        return {"argilla": self.api_url, "workspace": self.workspace, "dataset": self.dataset}


class LabelStudioSource(_ServerSource):
    """A project on a Label Studio server."""

    type: Literal["label_studio"] = "label_studio"
    url: ServerUrl
    """Address of the server, such as ``https://label-studio.example.org``."""
    key_variable: str = Field(default="LABEL_STUDIO_TOKEN", pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")
    """Name of the environment variable that holds a personal access token; the token itself is never in a
    config."""
    project: PositiveInt
    """Number of the project, as in its address."""
    page_size: int = Field(default=100, ge=2, le=1000)
    """Tasks asked for at once."""
    overlap_seconds: NonNegativeInt = 300
    """How far before the latest change already read the next read begins, in seconds: tasks that were being
    saved during a read are found by the next. Once the latest change is longer ago than this, the next read
    begins right after it."""

    @property
    def source_name(self) -> str:
        """The name its rows carry."""
        return self.name or f"project-{self.project}"

    @property
    def identity(self) -> Mapping[str, str]:
        """Where its rows come from, whatever the manner of reading."""
        return {"label_studio": self.url, "project": str(self.project)}


class ArgillaTarget(Settings):
    """A dataset on an Argilla 2 server to which prompts are pushed for annotation."""

    api_url: ServerUrl
    """Address of the server."""
    key_variable: str = Field(default="ARGILLA_API_KEY", pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")
    """Name of the environment variable that holds an owner's or admin's API key."""
    workspace: str = Field(min_length=1)
    """Workspace of the dataset; it must exist."""
    dataset: str = Field(min_length=1)
    """Name of the dataset; it is made if it does not exist."""
    overlap: PositiveInt = 1
    """How many annotators are asked about each prompt; two or more, and their agreement can be measured. Used
    when the dataset is made."""


class LabelStudioTarget(Settings):
    """A project on a Label Studio server to which prompts are pushed for annotation."""

    url: ServerUrl
    """Address of the server."""
    key_variable: str = Field(default="LABEL_STUDIO_TOKEN", pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")
    """Name of the environment variable that holds a personal access token."""
    project: str = Field(min_length=1)
    """Title of the project; it is made if it does not exist."""
    overlap: PositiveInt = 1
    """How many annotators are asked about each prompt; two or more, and their agreement can be measured. Used
    when the project is made."""
