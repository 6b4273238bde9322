"""Run on two processes, and by a test on one: the same update, whose outcome is written down.

RANK=... WORLD_SIZE=2 python shared_update.py POLICY REWARD OUT
"""

import sys
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from rlhf.errors import TrainingError
from rlhf.models.generation import generate
from rlhf.models.rewards import RewardModelReward
from rlhf.models.settings_generation import GenerationSettings
from rlhf.tracking import NullSink
from rlhf.training.ppo.actor_critic import load_networks
from rlhf.training.ppo.batching import update_plan
from rlhf.training.ppo.learner import Learner
from rlhf.training.ppo.rollout import Rollouts, build_experience, estimate
from rlhf.training.ppo.settings import PPOSettings
from rlhf.training.ppo.sharding import sharing_processes, whole
from rlhf.training.ppo.trainer import PPOTrainer
from rlhf.training.processes import OneProcess, Processes, joined_processes
from rlhf.training.settings import LoRASettings

PROMPTS = ["a b c", "d", "e f", "g h i j", "k l", "m a", "b d f h", "c", "a m"]
DEMONSTRATIONS = [([3, 4], [5, 6, 2]), ([7], [8, 2]), ([9], [4, 4, 4, 2])]
SETTINGS = PPOSettings(
    updates=2,
    rollout_batch_size=9,
    epochs=2,
    mini_batches=2,
    micro_batch_tokens=24,
    generation=GenerationSettings(max_new_tokens=8),
    learning_rate=1e-3,
    critic_learning_rate=1e-3,
    ptx_coefficient=0.3,
    entropy_coefficient=0.01,
    kl_controller="adaptive",
    ema_decay=0.9,
    evaluate_every=1,
    precision="fp32",
)

ADAPTED = SETTINGS.model_copy(update={"lora": LoRASettings(rank=2), "learning_rate": 1e-2})


def fixed_update(
    policy: Path, reward: Path | None, processes: Processes | None, *, settings: PPOSettings = SETTINGS
) -> dict[str, Tensor]:
    """One update on rollouts that every process samples alike: its experience, gradients and figures."""
    processes = sharing_processes(settings, processes or OneProcess())
    models, tokenizer = load_networks(policy, reward, settings)
    if settings.sharding == "fsdp":
        models.shard()
    rollouts = Rollouts(PROMPTS, generate(models.sampler, tokenizer, PROMPTS, settings.generation, seed=0))
    plan = update_plan(
        rollouts.lengths, epochs=2, mini_batches=2, token_budget=24, seed=0, processes=processes.count
    )
    experience = build_experience(
        rollouts,
        estimate(models, rollouts, plan[0], processes),
        torch.linspace(-1, 1, len(PROMPTS)),
        settings,
        kl_coefficient=0.05,
        other_engine=False,
    )
    learner = Learner(models, settings, processes)
    first = learner.accumulate(rollouts, experience, plan[0][0], ptx=DEMONSTRATIONS)
    found = {f"experience/{name}": t.float() for name, t in experience.tensors().items()}
    for group in learner.groups:
        for name, parameter in group.parameters.items():
            assert parameter.grad is not None
            found[f"gradient/{name}"] = whole(parameter.grad).clone()
        group.optimizer.zero_grad()
    figures = learner.learn(rollouts, experience, plan, update=1, demonstrations=[DEMONSTRATIONS] * 4)
    found |= {f"first step/{name}": torch.tensor([value]) for name, value in first.items()}
    found |= {f"update/{name}": torch.tensor([value]) for name, value in figures.items()}
    return found


def two_updates(
    policy: Path,
    reward: Path,
    output: Path,
    processes: Processes | None,
    *,
    settings: PPOSettings = SETTINGS,
    resume: bool = False,
) -> dict[str, Tensor]:
    """A whole run of two updates: the weights at its end, the delivered update and the last figures."""
    trainer = PPOTrainer(
        policy,
        RewardModelReward(reward),
        PROMPTS,
        settings,
        output_dir=output,
        critic=None if settings.critic == "shared" else reward,
        dev_prompts=PROMPTS[:5],
        demonstrations=[("a b", "c d"), ("e", "f")],
        sink=NullSink(),
        resume=resume,
        processes=processes,
    )
    result = trainer.train()
    weights = {**dict(trainer.models.policy.named_parameters()), **trainer.models.value_parameters()}
    assert result.policy_path.is_dir()
    return {
        **{f"weights/{name}": whole(w.detach()).clone() for name, w in weights.items()},
        **{f"run/{name}": torch.tensor([value]) for name, value in result.metrics.items()},
    }


def spoiled_update(
    policy: Path, reward: Path, output: Path, processes: Processes, *, settings: PPOSettings = SETTINGS
) -> str:
    """The error of an update in which one completion's advantages are not finite."""
    trainer = PPOTrainer(
        policy, RewardModelReward(reward), PROMPTS, settings.model_copy(update={"ptx_coefficient": 0.0}),
        output_dir=output, critic=reward, sink=NullSink(), processes=processes,
    )  # fmt: skip
    trainer.update = 1
    rollouts = trainer.generate()
    experience = trainer.advantages(rollouts, [0.0] * len(PROMPTS))
    experience.advantages[4] = float("nan")
    try:
        trainer.learn(rollouts, experience)
    except TrainingError as error:
        return str(error)
    return "none"


if __name__ == "__main__":
    policy, reward, out = map(Path, sys.argv[1:])
    with joined_processes(rendezvous=out / "rendezvous") as joined:
        outcome = fixed_update(policy, reward, joined)
        outcome |= two_updates(policy, reward, out / "run", joined)
        adapted = two_updates(policy, reward, out / "adapted", joined, settings=ADAPTED)
        outcome |= {f"adapted {name}": tensor for name, tensor in adapted.items()}
        error = spoiled_update(policy, reward, out / "spoiled", joined)
        (out / f"rank{joined.rank}.error").write_text(error)
        save_file(outcome, out / f"rank{joined.rank}.safetensors")
