"""The whole evaluation on tiny random models, whose KL and rewards can be worked out another way."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from rlhf.errors import EvaluationError, ModelError
from rlhf.evaluation.frontier import FrontierPoint
from rlhf.evaluation.policy import PolicyEvaluationResult, evaluate_policy
from rlhf.evaluation.settings import EvaluationSettings
from rlhf.models.chat import Prompt, encode_prompt
from rlhf.models.generation import generate
from rlhf.models.loading import load_policy, load_tokenizer
from rlhf.models.settings_generation import GenerationSettings

PROMPTS: list[Prompt] = [f"q{i:02d}" for i in range(24)]
IDS = [f"r{i}" for i in range(24)]
DEMONSTRATIONS: list[tuple[Prompt, str]] = [(f"q{i}", f"{i}{i * 7}") for i in range(9)]
SETTINGS = EvaluationSettings(
    generation=GenerationSettings(max_new_tokens=12), samples_shown=6, batch_size=16
)


def length(prompts: Sequence[Prompt], completions: Sequence[str]) -> list[float]:
    return [float(len(c)) for c in completions]


def brevity(prompts: Sequence[Prompt], completions: Sequence[str]) -> list[float]:
    return [-float(len(c)) for c in completions]


def character_tokenizer(extra: str = "") -> PreTrainedTokenizerFast:
    vocabulary = ["<pad>", "<eos>", *"q0123456789", *extra.split()]  # few: EOS is drawn often
    bpe = Tokenizer(models.BPE(vocab={t: i for i, t in enumerate(vocabulary)}, merges=[]))
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=bpe, pad_token="<pad>", eos_token="<eos>")


def save_tiny_llama(path: Path, seed: int, extra: str = "") -> Path:
    torch.manual_seed(seed)
    tokenizer = character_tokenizer(extra)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=64,
        pad_token_id=0,
        bos_token_id=None,
        eos_token_id=1,
    )
    model = LlamaForCausalLM(config)
    with torch.no_grad():  # far enough from uniform that two seeds differ in what they say
        for parameter in model.parameters():
            if parameter.ndim == 2:
                parameter.mul_(8)
    model.save_pretrained(path)
    tokenizer.save_pretrained(path)
    return path


Evaluate = Callable[..., PolicyEvaluationResult]


@pytest.fixture(scope="module")
def policies(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("models")
    return save_tiny_llama(folder / "policy", 1), save_tiny_llama(folder / "sft", 2)


@pytest.fixture(scope="module")
def result(policies: tuple[Path, Path]) -> PolicyEvaluationResult:
    policy, sft = policies
    frontier = [
        FrontierPoint(0, 0.0, {"proxy": 1.0, "gold": 1.0}, False),
        FrontierPoint(5, 1.0, {"proxy": 2.0, "gold": 3.0}, True),
        FrontierPoint(9, 4.0, {"proxy": 3.0, "gold": 2.0}, False),
    ]
    return evaluate_policy(
        policy,
        sft,
        PROMPTS,
        {"proxy": length, "gold": brevity},
        SETTINGS,
        champion=sft,
        demonstrations=DEMONSTRATIONS,
        frontier=frontier,
        record_ids=IDS,
    )


def test_every_figure_has_a_name_that_a_config_can_be_checked_against(
    result: PolicyEvaluationResult,
) -> None:
    settings = SETTINGS.model_copy(update={"rewards": {"gold": "somewhere:gold"}})
    assert set(result.metrics) <= settings.figure_names()


def test_a_model_against_itself_wins_half_and_has_no_distance(policies: tuple[Path, Path]) -> None:
    policy, _ = policies
    metrics = evaluate_policy(policy, policy, PROMPTS, {"proxy": length}, SETTINGS).metrics
    assert metrics["eval/proxy/win_rate_vs_sft"] == 0.5
    assert metrics["eval/proxy/tie_share_vs_sft"] == 1.0
    assert metrics["eval/proxy/difference_vs_sft"] == 0.0
    assert metrics["eval/kl"] == 0.0
    assert not any("champion" in name for name in metrics)


def test_the_kl_is_that_of_the_models_own_log_probabilities(
    policies: tuple[Path, Path], result: PolicyEvaluationResult
) -> None:
    policy, sft = (load_policy(path) for path in policies)
    tokenizer = load_tokenizer(policies[0])
    samples = generate(policy, tokenizer, PROMPTS, SETTINGS.generation, seed=SETTINGS.seed)
    ratios, tokens = [], 0
    for prompt, sample in zip(PROMPTS, samples, strict=True):
        start, ids = len(encode_prompt(tokenizer, prompt)), list(sample.token_ids)
        inputs = torch.tensor([[*sample.prompt_ids, *ids]])
        with torch.inference_mode():
            p, q = (model(inputs).logits[0].log_softmax(-1) for model in (policy, sft))
        ratios.append(sum(float(p[start + t - 1, i] - q[start + t - 1, i]) for t, i in enumerate(ids)))
        tokens += len(ids)
    assert result.metrics["eval/kl"] == pytest.approx(np.mean(ratios), rel=1e-4)
    assert result.metrics["eval/kl_per_token"] == pytest.approx(sum(ratios) / tokens, rel=1e-4)
    assert result.metrics["eval/kl_low"] < result.metrics["eval/kl"] < result.metrics["eval/kl_high"]
    assert result.metrics["eval/kl_low"] > 0


def test_the_perplexity_is_that_of_the_models_own_loss_on_the_completions(
    policies: tuple[Path, Path], result: PolicyEvaluationResult
) -> None:
    policy, tokenizer = load_policy(policies[0]), load_tokenizer(policies[0])
    total, tokens = 0.0, 0
    for prompt, completion in DEMONSTRATIONS:
        start = encode_prompt(tokenizer, prompt)
        ids = [*tokenizer(completion)["input_ids"], tokenizer.eos_token_id]
        inputs = torch.tensor([[*start, *ids]])
        labels = torch.tensor([[*[-100] * len(start), *ids]])
        with torch.inference_mode():
            total += float(policy(inputs, labels=labels).loss) * len(ids)
        tokens += len(ids)
    assert result.metrics["eval/perplexity/policy"] == pytest.approx(np.exp(total / tokens), rel=1e-4)
    assert result.metrics["eval/perplexity/policy_low"] < result.metrics["eval/perplexity/policy_high"]
    assert result.metrics["eval/perplexity/sft"] == result.metrics["eval/perplexity/champion"]


def test_without_demonstrations_there_is_no_perplexity(policies: tuple[Path, Path]) -> None:
    metrics = evaluate_policy(*policies, PROMPTS[:4], {"proxy": length}, SETTINGS).metrics
    assert not [name for name in metrics if "perplexity" in name]


def test_findings_are_held_to_holms_p_values_and_the_test_to_its_prompts(
    result: PolicyEvaluationResult,
) -> None:
    m = result.metrics
    p = {name: value for name, value in m.items() if "/p_value_vs_" in name}
    assert len(p) == 4
    for name, value in p.items():
        assert value <= m[name.replace("/p_value", "/holm_p_value")] <= 1
    # A win rate against equal lengths says nothing where the reward is the length.
    assert "eval/proxy/length_controlled_win_rate_vs_sft" not in m
    assert "length alone decides" in result.report.html
    assert m["eval/proxy/detectable_win_rate_vs_sft"] > 0.5


def test_length_shares_add_up_and_repetition_is_a_share(result: PolicyEvaluationResult) -> None:
    lengths = result.report.data["lengths"]
    for role in ("policy", "sft", "champion"):
        assert sum(lengths["shares"][role]) == pytest.approx(1.0)
        assert 0 <= result.metrics[f"eval/repetition_4/{role}"] <= 1
    assert lengths["edges"][-1] >= max(row["policy_tokens"] for row in result.samples)


def test_other_decoding_changes_the_answers_and_not_the_kl(
    policies: tuple[Path, Path], result: PolicyEvaluationResult
) -> None:
    greedy = SETTINGS.model_copy(
        update={"generation": GenerationSettings(max_new_tokens=12, temperature=0.0), "samples_shown": 0}
    )
    other = evaluate_policy(*policies, PROMPTS, {"proxy": length}, greedy)
    assert other.metrics["eval/kl"] == result.metrics["eval/kl"]
    assert [r["policy_completion"] for r in other.samples] != [r["policy_completion"] for r in result.samples]


def test_a_champion_equal_to_the_sft_model_gives_the_same_figures(result: PolicyEvaluationResult) -> None:
    for reward in ("proxy", "gold"):
        for figure in ("difference", "win_rate", "win_rate_low"):
            name = f"{figure.removesuffix('_low')}_vs_{{}}{'_low' if figure.endswith('_low') else ''}"
            assert (
                result.metrics[f"eval/{reward}/{name.format('sft')}"]
                == result.metrics[f"eval/{reward}/{name.format('champion')}"]
            )


def test_opposite_rewards_give_mirrored_figures(result: PolicyEvaluationResult) -> None:
    m = result.metrics
    assert m["eval/proxy/policy"] == -m["eval/gold/policy"]
    assert m["eval/proxy/win_rate_vs_sft"] == pytest.approx(1 - m["eval/gold/win_rate_vs_sft"])
    assert len(result.report.data["disagreeing"]) == (m["eval/proxy/difference_vs_sft"] > 0)


def test_sample_rows_hold_every_answer_and_add_up_to_the_figures(result: PolicyEvaluationResult) -> None:
    assert [row["record_id"] for row in result.samples] == IDS
    for role in ("policy", "sft", "champion"):
        assert np.mean([r[f"{role}_proxy"] for r in result.samples]) == result.metrics[f"eval/proxy/{role}"]
        assert np.mean([r[f"{role}_tokens"] for r in result.samples]) == pytest.approx(
            result.metrics[f"eval/length/{role}"]
        )
        assert 0 < result.metrics[f"eval/truncated_share/{role}"] < 1
        cut = [not r[f"{role}_finished"] for r in result.samples]
        assert np.mean(cut) == result.metrics[f"eval/truncated_share/{role}"]


def test_the_report_holds_every_prompts_scores_and_lengths_in_one_order(
    policies: tuple[Path, Path], result: PolicyEvaluationResult
) -> None:
    by_prompt = result.report.data["by_prompt"]
    assert by_prompt["record_ids"] == IDS
    for role in ("policy", "sft", "champion"):
        for reward in ("proxy", "gold"):
            assert by_prompt["scores"][reward][role] == [r[f"{role}_{reward}"] for r in result.samples]
        assert by_prompt["tokens"][role] == [r[f"{role}_tokens"] for r in result.samples]


def test_answers_to_one_prompt_are_averaged_even_where_it_stands_twice(
    policies: tuple[Path, Path],
) -> None:
    settings = SETTINGS.model_copy(update={"samples_per_prompt": 2})
    prompts, ids = ["q1", "q2", "q1"], ["a", "b", "c"]
    found = evaluate_policy(*policies, prompts, {"proxy": length}, settings, record_ids=ids)
    by_prompt = found.report.data["by_prompt"]
    assert by_prompt["record_ids"] == ["a", "b"]
    of_first = [r["policy_proxy"] for r in found.samples if r["prompt"] == "q1"]
    assert len(of_first) == 4
    assert by_prompt["scores"]["proxy"]["policy"][0] == pytest.approx(np.mean(of_first))


def test_the_report_is_json_with_every_figure_and_html_without_outside_links(
    result: PolicyEvaluationResult,
) -> None:
    data = json.loads(json.dumps(result.report.data, allow_nan=False))
    assert data["metrics"] == result.metrics
    assert data["rewards"]["gold"]["vs_sft"]["win_rate"]["prompts"] == 24
    assert [row["why"] for row in data["samples"]] == ["worst"] * 2 + ["best"] * 2 + ["random"] * 2
    assert data["overoptimisation"][0]["reward"] == "gold"
    assert result.metrics["eval/overoptimised"] == 1.0
    assert "while gold fell (3 → 2)" in result.report.html
    assert "<svg" in result.report.html
    assert 'src="http' not in result.report.html
    assert "<script" not in result.report.html


def test_several_samples_per_prompt_are_one_unit(policies: tuple[Path, Path]) -> None:
    settings = SETTINGS.model_copy(update={"samples_per_prompt": 3})
    found = evaluate_policy(*policies, PROMPTS[:6], {"proxy": length}, settings)
    assert (len(found.samples), found.metrics["eval/prompts"]) == (18, 6.0)
    assert len({r["policy_completion"] for r in found.samples if r["record_id"] == "0"}) > 1
    assert found.report.data["rewards"]["proxy"]["vs_sft"]["win_rate"]["prompts"] == 6


def test_the_same_evaluation_twice_is_the_same(
    policies: tuple[Path, Path], result: PolicyEvaluationResult
) -> None:
    rewards = {"proxy": length, "gold": brevity}
    small = SETTINGS.model_copy(update={"batch_size": 5, "token_budget": 64})
    again = evaluate_policy(*policies, PROMPTS, rewards, small, record_ids=IDS)
    assert again.metrics["eval/gold/policy"] == result.metrics["eval/gold/policy"]
    assert again.metrics["eval/kl"] == pytest.approx(result.metrics["eval/kl"], rel=1e-5)


def test_a_reward_that_is_not_finite_is_named(policies: tuple[Path, Path]) -> None:
    def broken(prompts: Sequence[Prompt], completions: Sequence[str]) -> list[float]:
        return [float("nan") for _ in completions]

    with pytest.raises(EvaluationError, match=r"reward 'selection' gave nan .* record 'r0'"):
        evaluate_policy(*policies, PROMPTS, {"selection": broken}, SETTINGS, record_ids=IDS)


@pytest.mark.parametrize(
    ("prompts", "rewards", "settings", "message"),
    [
        (["a", "a "], {"proxy": length}, SETTINGS, "two distinct held-out prompts, not 1"),
        (PROMPTS, {}, SETTINGS, "at least one reward"),
        (PROMPTS, {"kl": length}, SETTINGS, "cannot be called 'kl'"),
        (
            PROMPTS,
            {"proxy": length},
            SETTINGS.model_copy(update={"judging_reward": "judge"}),
            "judging_reward is 'judge', but the rewards are proxy",
        ),
    ],
)
def test_questions_that_cannot_be_answered_are_refused_before_any_model_is_read(
    prompts: list[Prompt], rewards: dict, settings: EvaluationSettings, message: str
) -> None:
    with pytest.raises(EvaluationError, match=message):
        evaluate_policy(Path("absent"), Path("absent"), prompts, rewards, settings)


def test_a_model_with_another_vocabulary_has_no_kl(policies: tuple[Path, Path], tmp_path: Path) -> None:
    other = save_tiny_llama(tmp_path / "other", 3, extra="word")
    with pytest.raises(ModelError, match="different vocabularies"):
        evaluate_policy(policies[0], other, PROMPTS, {"proxy": length}, SETTINGS)
