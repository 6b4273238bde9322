"""PPO from a supervised policy and a reward to a better policy, as a loop that reads like the algorithm.

    generate -> score -> advantages -> learn, and now and then evaluate and checkpoint

Each process (one, unless ``processes`` says otherwise) holds policy, reference and critic (``actor_critic``);
the reward is any callable over text.
Every random number is a function of seed, update and row, which is why a resumed run equals a straight one
bit for bit. Sealing, registering and judging the result are the caller's; the checkpoint that is delivered
is chosen by the *selection* reward, never by the one that was maximised.
"""

import logging
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict
from pathlib import Path

from torch import Tensor

from rlhf.errors import DataError, TrainingError
from rlhf.models.chat import Prompt, encode_completion, encode_prompt
from rlhf.models.loading import load_policy
from rlhf.models.reward_protocol import Reward
from rlhf.tracking import MetricSink, NullSink, recorded_curves, restore_curves
from rlhf.training.interruption import end_if_stop_requested
from rlhf.training.policy_evaluation import evaluate
from rlhf.training.policy_result import (
    PolicyEvaluation,
    best_evaluation,
    early_stop_reason,
    selection_criterion,
)
from rlhf.training.ppo.actor_critic import MovingAverage, load_networks
from rlhf.training.ppo.adapters import merge_trained_adapter
from rlhf.training.ppo.advantages import ScoreScaler
from rlhf.training.ppo.batching import (
    MiniBatch,
    demonstrations_of_update,
    derived_seed,
    prompts_of_update,
    update_plan,
)
from rlhf.training.ppo.checkpoint import (
    Checkpoint,
    best_policy_path,
    copy_policy,
    keep_best_policy,
    load_newest,
    save_checkpoint,
    save_policy,
)
from rlhf.training.ppo.failed_batch import save_failed_batch
from rlhf.training.ppo.identity import run_identity
from rlhf.training.ppo.kl import kl_controller
from rlhf.training.ppo.learner import Learner, NonFiniteLossError, TokenPairs
from rlhf.training.ppo.phase_clock import PhaseClock
from rlhf.training.ppo.preconditions import require_runnable
from rlhf.training.ppo.prompts import encode_prompts
from rlhf.training.ppo.result import PPOResult
from rlhf.training.ppo.rollout import (
    Experience,
    Rollouts,
    build_experience,
    estimate,
    rollout_figures,
    score_rows,
    shaped_scores,
)
from rlhf.training.ppo.rollout_engine import rollout_engine
from rlhf.training.ppo.run_state import restore_tensors, state_tensors
from rlhf.training.ppo.settings import PPOSettings
from rlhf.training.ppo.sharding import sharing_processes
from rlhf.training.processes import OneProcess, Processes, joined_processes, own_rows, stop_requested_of_any

logger = logging.getLogger(__name__)


def train_ppo(
    policy: Path | str,
    reward: Reward,
    prompts: Sequence[Prompt],
    settings: PPOSettings,
    *,
    output_dir: Path,
    policy_base: Path | str | None = None,
    critic: Path | None = None,
    dev_prompts: Sequence[Prompt] = (),
    selection: Reward | None = None,
    demonstrations: Sequence[tuple[Prompt, str]] = (),
    sink: MetricSink | None = None,
    resume: bool = False,
) -> PPOResult:
    """Improve a policy against a reward.

    Started by ``torchrun`` or ``accelerate launch``, the processes share the work, and each gets the result;
    ``output_dir`` must be the same directory for all.

    Args:
        policy: directory of the policy to start from; it is the reference of the KL penalty as well.
        reward: what is maximised (the proxy).
        prompts: what is answered in training.
        output_dir: gets ``checkpoints/`` and, at the end, ``policy/`` (not sealed): a full model, or with
            ``settings.lora.merge`` off the adapter alone.
        policy_base: the model that ``policy`` was trained on, if that is an unmerged adapter.
        critic: a reward model that a separate critic starts from; it needs the policy's vocabulary.
        dev_prompts: what every evaluation answers; without any, the last policy is delivered.
        selection: chooses the checkpoint; another reward than the one that is maximised. Without it
            ``reward`` chooses, and the result's ``criterion`` says so.
        demonstrations: (prompt, completion) pairs for PPO-ptx.
        sink: receives ``ppo/...`` after each update and ``ppo_eval/...`` after each evaluation.
        resume: continue from the newest checkpoint in ``output_dir``; start anew if there is none.

    Raises:
        DataError: nothing to train on, or a prompt that leaves no room for a completion.
        ModelError, ConfigError: a model that is absent, of the wrong kind, or does not fit; more processes
            than a mini-batch has completions.
        TrainingError: a checkpoint of another run, a score or loss that is not finite.
    """
    with joined_processes() as processes:
        trainer = PPOTrainer(
            policy,
            reward,
            prompts,
            settings,
            output_dir=output_dir,
            policy_base=policy_base,
            critic=critic,
            dev_prompts=dev_prompts,
            selection=selection,
            demonstrations=demonstrations,
            sink=sink or NullSink(),
            resume=resume,
            processes=processes,
        )
        return trainer.train()


class PPOTrainer:
    """The state of a run, and its phases as methods. See :func:`train_ppo` for the arguments."""

    def __init__(
        self,
        policy: Path | str,
        reward: Reward,
        prompts: Sequence[Prompt],
        settings: PPOSettings,
        *,
        output_dir: Path,
        policy_base: Path | str | None = None,
        critic: Path | None = None,
        dev_prompts: Sequence[Prompt] = (),
        selection: Reward | None = None,
        demonstrations: Sequence[tuple[Prompt, str]] = (),
        sink: MetricSink,
        resume: bool = False,
        processes: Processes | None = None,
    ) -> None:
        self.settings = settings
        self._processes = sharing_processes(settings, processes or OneProcess())
        self._reward, self._selection = reward, selection
        self._sink = sink if self._processes.rank == 0 else NullSink()
        self._output = output_dir
        self._checkpoints = output_dir / "checkpoints"
        require_runnable(
            settings,
            checkpoints=self._checkpoints,
            resume=resume,
            from_adapter=policy_base is not None,
            demonstrations=bool(demonstrations),
            processes=self._processes.count,
        )
        self._start = (policy, policy_base)
        self.models, self._tokenizer = load_networks(policy, critic, settings, policy_base=policy_base)
        # heads and adapters may start at random, and every process must start from the same
        started = [*self.models.policy.parameters(), *self.models.value_parameters().values()]
        self._processes.broadcast(p for p in started if p.requires_grad)
        if settings.sharding == "fsdp":
            self.models.shard()
        self._prompts = encode_prompts(self.models.policy, self._tokenizer, prompts, settings)
        self._dev = encode_prompts(self.models.policy, self._tokenizer, dev_prompts, settings)
        self._demonstrations = [
            (encode_prompt(self._tokenizer, p), encode_completion(self._tokenizer, c))
            for p, c in demonstrations
        ]
        if not self._prompts.ids:
            raise DataError("There is no prompt to train on; add prompts or raise ppo.max_prompt_tokens.")
        self._engine = rollout_engine(self.models, self._tokenizer, settings, self._processes)
        self._learner = Learner(self.models, settings, self._processes)
        self._average = (
            None
            if settings.ema_decay is None
            else MovingAverage(self.models.policy_parameters(), settings.ema_decay)
        )
        self._controller = kl_controller(settings)
        self._scaler = ScoreScaler()
        self._identity = run_identity(
            settings,
            policy=policy,
            policy_base=policy_base,
            critic=critic,
            reward=reward,
            selection=selection,
            prompts=prompts,
            dev_prompts=dev_prompts,
            demonstrations=demonstrations,
        )
        self.update = 0
        self.evaluations: list[PolicyEvaluation] = []
        self._clipped_scores = 0
        self._metrics: dict[str, float] = {}
        self._clock = PhaseClock(self.models.device)
        self._tokens_per_second = 0.0
        if resume:
            self._restore()

    def train(self) -> PPOResult:
        """Run to the end and deliver the chosen policy."""
        self._sink.log_params({f"ppo/{k}": v for k, v in self.settings.model_dump(mode="json").items()})
        if not self.evaluations:
            self.evaluate()
        while not (reason := self._stop_reason()):
            self.update += 1
            self._clock = PhaseClock(self.models.device)
            rollouts = self.generate()
            scores = self.score(rollouts)
            experience = self.advantages(rollouts, scores)
            self.learn(rollouts, experience)
            self._report(rollouts)
            if self.update % self.settings.evaluate_every == 0 or self.update == self.settings.updates:
                self.evaluate()
            due = self.update % self.settings.checkpoint_every == 0 or bool(self._stop_reason())
            stopping = stop_requested_of_any(self._processes)
            if due or stopping:
                self.checkpoint()
            if stopping:
                end_if_stop_requested(f"update {self.update}")
            self._sink.progress(self.update, self.settings.updates, self._note())
        return self._deliver(reason)

    def generate(self) -> Rollouts:
        """Answer the update's prompts with the present policy."""
        chosen = prompts_of_update(
            self.update, self.settings.rollout_batch_size, len(self._prompts.ids), self.settings.seed
        )
        rows = own_rows(len(chosen), self._processes)
        with self._clock.timed("generate"):
            self.models.refresh_sampler()
            self._engine.sync(self.models.sampler)
            own = self._engine.generate(
                [self._prompts.ids[chosen[i]] for i in rows],
                self.settings.generation,
                seed=derived_seed(self.settings.seed, "rollouts", self.update),
                rows=rows,
            )
            completions = self._processes.gather(own, len(chosen))
        return Rollouts([self._prompts.prompts[i] for i in chosen], completions)

    def score(self, rollouts: Rollouts) -> list[float]:
        """The reward's raw scores."""
        with self._clock.timed("score"):
            texts = [c.text for c in rollouts.completions]
            return score_rows(self._reward, rollouts.prompts, texts, self._processes, name="the reward")

    def advantages(self, rollouts: Rollouts, scores: Sequence[float]) -> Experience:
        """Log-probabilities, values, rewards with the KL penalty, and advantages."""
        with self._clock.timed("advantages"):
            estimates = estimate(self.models, rollouts, self._plan(rollouts)[0], self._processes)
            shaped, clipped = shaped_scores(rollouts, scores, self._scaler, self.settings)
            coefficient = self._controller.coefficient
            experience = build_experience(
                rollouts,
                estimates,
                shaped,
                self.settings,
                kl_coefficient=coefficient,
                other_engine=self._engine.other_numerics,
            )
        figures = rollout_figures(rollouts, scores, estimates, experience)
        self._controller.update(figures["kl"], len(scores))
        self._clipped_scores += clipped
        self._metrics = {
            **figures,
            "shaped_reward": float(shaped.mean()),
            "reward_std": self._scaler.std,
            "reward_clipped": float(clipped),
            "kl_coefficient": coefficient,
        }
        return experience

    def learn(self, rollouts: Rollouts, experience: Experience) -> None:
        """The update's optimizer steps, and the moving average.

        Raises:
            TrainingError: a loss or gradient is not finite; the batch is kept in ``failed_batch/``.
        """
        plan = self._plan(rollouts)
        with self._clock.timed("learn"):
            try:
                self._metrics |= self._learner.learn(
                    rollouts,
                    experience,
                    plan,
                    update=self.update,
                    demonstrations=self._demonstration_batches(plan),
                )
            except NonFiniteLossError as failure:
                path = self._output / "failed_batch"
                if self._processes.rank == 0:
                    save_failed_batch(path, rollouts, experience, failure.rows, failure.what)
                self._processes.wait()  # a launcher ends the others as soon as one has failed
                raise TrainingError(
                    f"{failure.what} is not finite in update {self.update}; the batch is in {path}: "
                    "lower the learning rates, or train in fp32."
                ) from failure
            if self._average is not None:
                self._average.update()

    def evaluate(self) -> None:
        """Answer the dev prompts, and keep the policy if none was better before it."""
        if not self._dev.ids:
            return
        with self._delivered_weights():
            self.models.refresh_sampler()
            found = evaluate(
                self.models,
                self._tokenizer,
                self._dev,
                self._reward,
                self._selection,
                self.settings,
                update=self.update,
                processes=self._processes,
            )
            self.evaluations.append(found)
            if best_evaluation(self.evaluations) is found and self._processes.rank == 0:
                save_policy(self.models.sampler, self._tokenizer, best_policy_path(self._checkpoints, found))
        self._sink.log_metrics({f"ppo_eval/{k}": v for k, v in found.figures().items()}, self.update)

    def checkpoint(self) -> None:
        """Write everything that the rest of the run depends on; process 0 does it for all."""
        writes = self._processes.rank == 0
        tensors = state_tensors(self.models, self._learner.groups, self._average, keep=writes)
        if writes:
            self._write_checkpoint(tensors)
        self._processes.wait()

    def _write_checkpoint(self, tensors: Mapping[str, Mapping[str, Tensor]]) -> None:
        state = {
            "kl_coefficient": self._controller.coefficient,
            "scaler": asdict(self._scaler),
            "clipped_scores": self._clipped_scores,
            "evaluations": [e.to_json() for e in self.evaluations],
            "metrics": self._metrics,
            "curves": recorded_curves(self._sink),
        }
        save_checkpoint(
            self._checkpoints,
            Checkpoint(self.update, tensors, state),
            self._identity,
            keep=self.settings.keep_checkpoints,
        )
        # only now: until here a resumed run would have started from a checkpoint that names an older best
        # policy
        keep_best_policy(self._checkpoints, best_evaluation(self.evaluations))

    def _restore(self) -> None:
        found = load_newest(self._checkpoints, self._identity)
        if found is None:
            return
        restore_tensors(found.tensors, self.models, self._learner.groups, self._average)
        self._controller.coefficient = found.state["kl_coefficient"]
        self._scaler = ScoreScaler(**found.state["scaler"])
        self._clipped_scores = found.state["clipped_scores"]
        self.evaluations = [PolicyEvaluation.from_json(e) for e in found.state["evaluations"]]
        self._metrics = found.state["metrics"]
        restore_curves(self._sink, found.state["curves"])
        self.update = found.update
        logger.info("Resumed PPO after update %d from %s", self.update, self._checkpoints)

    def _deliver(self, reason: str) -> PPOResult:
        best = best_evaluation(self.evaluations)
        target = self._output / "policy"
        if best is None:
            with self._delivered_weights():
                self.models.refresh_sampler()
                if self._processes.rank == 0:
                    save_policy(self.models.sampler, self._tokenizer, target)
        if self._processes.rank == 0:
            self._write_policy(best, target)
        self._processes.wait()
        evaluated = {} if best is None else {f"ppo_eval/{k}": v for k, v in best.figures().items()}
        return PPOResult(
            policy_path=target,
            evaluations=tuple(self.evaluations),
            best_update=self.update if best is None else best.update,
            criterion=selection_criterion(
                dev_prompts=bool(self._dev.ids),
                selection=self._selection is not None,
                kl_coefficient=self.settings.selection_kl_coefficient,
            ),
            updates=self.update,
            stop_reason=reason,
            reward_clip_count=self._clipped_scores,
            prompts_dropped=self._prompts.dropped,
            metrics={**{f"ppo/{k}": v for k, v in self._metrics.items()}, **evaluated},
        )

    def _write_policy(self, best: PolicyEvaluation | None, target: Path) -> None:
        chosen = target if best is None else best_policy_path(self._checkpoints, best)
        if self.settings.lora is not None and self.settings.lora.merge:
            policy, base = self._start
            full = load_policy(policy, base=base, key="policy")
            save_policy(merge_trained_adapter(full, chosen), self._tokenizer, target)
        elif best is not None:
            copy_policy(chosen, target)

    def _stop_reason(self) -> str:
        early = early_stop_reason(
            self.evaluations, stop_kl=self.settings.stop_kl, patience=self.settings.patience
        )
        return early or ("all updates done" if self.update >= self.settings.updates else "")

    def _plan(self, rollouts: Rollouts) -> list[list[MiniBatch]]:
        return update_plan(
            rollouts.lengths,
            epochs=self.settings.epochs,
            mini_batches=self.settings.mini_batches,
            token_budget=self.settings.micro_batch_tokens,
            seed=derived_seed(self.settings.seed, "mini-batches", self.update),
            processes=self._processes.count,
        )

    def _demonstration_batches(self, plan: Sequence[Sequence[MiniBatch]]) -> list[TokenPairs]:
        """For PPO-ptx, as many demonstrations as rollouts for each optimizer step; otherwise none."""
        if self.settings.ptx_coefficient == 0:
            return []
        chosen = demonstrations_of_update(self.update, plan, len(self._demonstrations), self.settings.seed)
        return [[self._demonstrations[i] for i in step] for step in chosen]

    def _report(self, rollouts: Rollouts) -> None:
        timing = self._clock.figures(sum(len(c.token_ids) for c in rollouts.completions))
        self._tokens_per_second = timing["tokens_per_second"]
        self._sink.log_metrics({f"ppo/{k}": v for k, v in {**self._metrics, **timing}.items()}, self.update)

    def _note(self) -> str:
        reward, kl = self._metrics["reward"], self._metrics["kl"]
        return f"reward {reward:.3f}, KL {kl:.2f}, {self._tokens_per_second:,.0f} tokens/s"

    def _delivered_weights(self) -> AbstractContextManager[None]:
        """The weights that are evaluated and delivered: the moving average where there is one."""
        return nullcontext() if self._average is None else self._average.in_place()
