"""The reference of settings: up to date, complete, and with the defaults of a block's own place."""

from ops.environment import PROJECT_ROOT
from ops.run_config import parameters_model
from ops.settings_reference import _block, reference, type_name
from rlhf.models.settings_rewards import RewardSettings
from rlhf.settings import Settings
from rlhf.training.settings import OptimizerSettings, PretrainSettings

PAGE = PROJECT_ROOT / "docs" / "settings.md"


def _section(page: str, heading: str) -> str:
    after = page.split(f"# {heading}\n", 1)[1]
    return after.split("\n#", 1)[0]


def test_the_page_is_what_the_settings_say() -> None:
    assert PAGE.read_text(encoding="utf-8") == reference(), (
        "docs/settings.md is out of date; run: python -m ops.settings_reference > docs/settings.md"
    )


def test_every_stage_has_a_row_and_every_block_a_table() -> None:
    page = reference()
    overview = _section(page, "Stages")
    for name in parameters_model().model_fields:
        assert f"| `{name}` |" in overview
    for heading in (
        "ppo.generation",
        "sft.lora",
        "feedback.sources.N, `type: custom`",
        "promotion.criteria.N",
    ):
        assert "| key | type | default | meaning |" in _section(page, heading)


def test_every_key_has_a_meaning() -> None:
    rows = [line for line in reference().splitlines() if line.startswith("| `")]
    assert rows
    assert [row for row in rows if row.endswith("|  |")] == []


def test_a_blocks_defaults_are_those_of_its_place() -> None:
    block = _section(reference(), "pretrain.optimizer")
    inherited = OptimizerSettings().learning_rate
    own = PretrainSettings().optimizer.learning_rate
    assert own != inherited
    assert f"| `{own}` |" in block


def test_blocks_that_nest_in_themselves_have_one_table() -> None:
    class AnyReward(Settings):
        """A stage with a reward."""

        reward: RewardSettings
        """What is maximised."""

    lines = list(_block("stage", AnyReward, None, level=3))
    headings = [line for line in lines if line.startswith("#")]
    assert len(headings) == len(set(headings))
    assert "### stage.reward, `type: mix`\n" in headings
    assert "#### stage.reward.rules.N, `type: quote`\n" in headings
    assert [h for h in headings if "rewards" in h] == []


def test_types_are_named_for_people() -> None:
    field = PretrainSettings.model_fields["max_steps"]
    assert type_name(field.annotation, field.metadata) == "integer, ≥ 1 or null"
    assert type_name(tuple[float, float]) == "list of 2: number"
    assert type_name(dict[str, str]) == "mapping to text"
