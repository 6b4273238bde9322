import subprocess
import sys

import pytest
from pydantic import ValidationError

from rlhf.feedback.settings import DatasetSettings, FeedbackSettings, FileSource


def test_sources_are_told_apart_by_type() -> None:
    settings = FeedbackSettings.model_validate(
        {
            "sources": [
                {"type": "file", "path": "a/good.jsonl.gz"},
                {"type": "hub", "dataset": "Anthropic/hh-rlhf", "split": "test"},
                {"type": "sample"},
                {"type": "custom", "cls": "my.module:Reader", "options": {"n": 1}},
            ]
        }
    )
    names = [source.source_name for source in settings.sources]
    assert names == ["good", "Anthropic/hh-rlhf", "support_desk", "my.module:Reader"]


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"sources": []}, "at least 1 item"),
        ({"sources": [{"type": "ftp"}]}, "'ftp'"),
        ({"sources": [{"type": "file", "path": "a.xlsx"}]}, ".jsonl, .json, .csv"),
        (
            {"sources": [{"type": "file", "path": "a.csv", "layout": "prompt-choosen"}]},
            "prompt-chosen-rejected",
        ),
        ({"sources": [{"type": "file", "path": "a.csv", "layuot": "text"}]}, "layuot"),
        (
            {"sources": [{"type": "file", "path": f"{d}/x.csv"} for d in "ab"]},
            "called 'x'; give each a `name`",
        ),
        ({"sources": [{"type": "custom", "cls": "my.module.Reader"}]}, "pattern"),
    ],
)
def test_a_wrong_source_is_refused_with_its_key(settings: dict, said: str) -> None:
    with pytest.raises(ValidationError) as raised:
        FeedbackSettings.model_validate(settings)
    assert said in str(raised.value)


def test_a_source_without_endings_still_has_a_name() -> None:
    assert FileSource(path=".hidden.jsonl").source_name == ".hidden.jsonl"


def test_held_out_fractions_must_leave_something_to_train_on() -> None:
    with pytest.raises(ValidationError, match="below 1"):
        DatasetSettings(test_fraction=0.6, dev_fraction=0.4)


def test_a_label_cannot_be_both_good_and_bad() -> None:
    with pytest.raises(ValidationError, match="meh"):
        DatasetSettings(good_labels=frozenset({"meh"}), bad_labels=frozenset({"meh"}))


@pytest.mark.parametrize("model", [DatasetSettings, FeedbackSettings, FileSource])
def test_every_setting_says_what_it_means(model: type) -> None:
    assert [
        name for name, field in model.model_fields.items() if not field.description and name != "type"
    ] == []


def test_settings_load_no_library_that_takes_seconds() -> None:
    code = (
        "import sys, rlhf.feedback.settings as s; "
        "sys.exit(bool({'torch', 'transformers', 'datasets', 'pyarrow', 'numpy'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_settings_are_written_alike_by_processes_whose_sets_are_ordered_differently() -> None:
    def dumped(seed: str) -> str:
        dump = (
            "from rlhf.feedback.settings import DatasetSettings; print(DatasetSettings().model_dump_json())"
        )
        command = [sys.executable, "-c", dump]
        return subprocess.run(
            command, env={"PYTHONHASHSEED": seed}, capture_output=True, text=True, check=True
        ).stdout

    assert dumped("1") == dumped("2")
