"""The RLHF pipeline: human feedback in, a registered champion policy out.

    ingest_feedback ─ prepare_datasets ─┬─ pretrain | import_base_model
                                        ├─ train_sft ─┬─ train_proxy_reward_model ─────┐
                                        │             ├─ train_selection_reward_model ─┤
                                        │             ├─ train_policy ◄────────────────┘
                                        │             └─ train_judge_reward_model ─────┐
    resolve_champion ───────────────────┴─── evaluate_policy ◄─────────────────────────┘
                                                    └─ promote_policy

Static on purpose: every orchestrator can cache and schedule it. The champion is an input of evaluation and
promotion rather than something they look up, so that their cache keys hold it. The three reward models
differ in fold and seed: whoever trains on a measure, or picks checkpoints by it, may not judge by it.
"""

from zenml import pipeline
from zenml.enums import ExecutionMode

from ops.cache import code_of, content_of, unless_fleeting
from ops.hooks import mark_run_failed
from rlhf.evaluation.settings import EvaluationSettings
from rlhf.evaluation.suites.content import are_lasting, suites_content
from rlhf.feedback.settings import FOLDS, DatasetSettings, FeedbackSettings
from rlhf.models.settings_rewards import RewardSettings
from rlhf.registry.settings import PromotionSettings
from rlhf.training.ppo.settings import PPOSettings
from rlhf.training.settings import BaseModelSettings, PretrainSettings, RewardModelSettings, SFTSettings
from rlhf.training.settings_policy import Algorithm, DPOSettings, GRPOSettings, KTOSettings, RLOOSettings
from steps.evaluate_policy import evaluate_policy
from steps.import_base_model import import_base_model
from steps.ingest_feedback import ingest_feedback
from steps.prepare_datasets import prepare_datasets
from steps.pretrain import pretrain as pretrain_step
from steps.promote_policy import promote_policy
from steps.resolve_champion import resolve_champion
from steps.train_policy import train_policy
from steps.train_reward_model import train_reward_model
from steps.train_sft import train_sft


# Fail fast: by default ZenML would train on in other branches after a step has failed.
@pipeline(name="rlhf_pipeline", on_failure=mark_run_failed, execution_mode=ExecutionMode.FAIL_FAST)
def rlhf_pipeline(
    feedback: FeedbackSettings,
    datasets: DatasetSettings = DatasetSettings(),
    base_model: BaseModelSettings | None = None,
    pretrain: PretrainSettings | None = None,
    sft: SFTSettings = SFTSettings(),
    reward_base: BaseModelSettings | None = None,
    reward_model: RewardModelSettings = RewardModelSettings(),
    algorithm: Algorithm = "ppo",
    reward: RewardSettings | None = None,
    ppo: PPOSettings = PPOSettings(),
    rloo: RLOOSettings = RLOOSettings(),
    grpo: GRPOSettings = GRPOSettings(),
    dpo: DPOSettings = DPOSettings(),
    kto: KTOSettings = KTOSettings(),
    evaluation: EvaluationSettings = EvaluationSettings(),
    promotion: PromotionSettings = PromotionSettings(),
    seed: int = 0,
) -> None:
    """Wire the stages together.

    Args:
        feedback: where feedback comes from.
        datasets: how rows become training views.
        base_model: an existing model to start from; without one, ``pretrain`` makes it.
        pretrain: tokenizer and small model from scratch, when there is no ``base_model``.
        sft: supervised fine-tuning.
        reward_base: what the reward models start from; by default the supervised policy.
        reward_model: training of the three reward models.
        algorithm: which of the five trains the policy; the sections of the others are not used.
        reward: what ppo, rloo and grpo maximise; by default the proxy, which may also be part of it.
        ppo: proximal policy optimisation, with a critic.
        rloo: REINFORCE with the other answers to a prompt as the baseline.
        grpo: group relative policy optimisation.
        dpo: direct preference optimisation, from the comparisons alone.
        kto: Kahneman-Tversky optimisation, from the comparisons taken apart.
        evaluation: the comparison of policy, supervised policy and champion.
        promotion: the gate.
        seed: of everything random; the selection reward model takes the next one, the judge the one after.
    """
    champion = resolve_champion()
    rows, _ = ingest_feedback(settings=feedback)
    judged = "ratings" if reward_model.objective == "regression" else "comparisons"
    demonstrations, comparisons, ratings, prompts, text, _ = prepare_datasets(
        feedback=rows, settings=datasets, judged=judged
    )
    if base_model is not None:
        base = import_base_model(settings=base_model)
    else:
        base = pretrain_step(text=text, settings=pretrain or PretrainSettings(), seed=seed)
    sft_policy = train_sft(base_model=base, demonstrations=demonstrations, settings=sft, seed=seed)
    judged_from = sft_policy
    if reward_base is not None:
        judged_from = import_base_model(settings=reward_base, id="import_reward_base")
    judgements = ratings if judged == "ratings" else comparisons
    proxy = train_reward_model(
        base_model=judged_from,
        judgements=judgements,
        settings=reward_model,
        role="proxy",
        fold=FOLDS["proxy"],
        seed=seed,
        id="train_proxy_reward_model",
    )
    selection = train_reward_model(
        base_model=judged_from,
        judgements=judgements,
        settings=reward_model,
        role="selection",
        fold=FOLDS["selection"],
        seed=seed + 1,
        id="train_selection_reward_model",
    )
    judge = train_reward_model(
        base_model=judged_from,
        judgements=judgements,
        settings=reward_model,
        role="judge",
        fold=FOLDS["judge"],
        seed=seed + 2,
        id="train_judge_reward_model",
    )
    sections = {"ppo": ppo, "rloo": rloo, "grpo": grpo, "dpo": dpo, "kto": kto}
    policy, frontier = train_policy.with_options(enable_cache=unless_fleeting(reward))(
        sft_policy=sft_policy,
        proxy=proxy,
        selection=selection,
        prompts=prompts,
        comparisons=comparisons,
        seed=seed,
        reward=reward,
        reward_content=content_of(reward),
        **{algorithm: sections[algorithm]},  # the others stay out of the cache key
    )
    # What a server or a moving branch says is not kept.
    report = evaluate_policy.with_options(enable_cache=None if are_lasting(evaluation.suites) else False)(
        policy=policy,
        sft_policy=sft_policy,
        proxy=proxy,
        selection=selection,
        judge=judge,
        champion=champion,
        prompts=prompts,
        comparisons=comparisons,
        demonstrations=demonstrations,
        frontier=frontier,
        settings=evaluation,
        seed=seed,
        rewards_content=code_of(evaluation.rewards),
        suites_content=suites_content(evaluation.suites),
    )
    promote_policy(
        policy=policy,
        proxy=proxy,
        evaluation=report,
        champion=champion,
        settings=promotion,
    )
