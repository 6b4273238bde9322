"""A language model as judge: which of two answers is better, asked in both orders, with its consistency and
cost.

Judges prefer the answer they read first, the longer one and their own kind's (Zheng et al. 2023,
arXiv:2306.05685, section 3.3). The order is undone here, by counting a win only where both orders agree; the
others are not.
"""

import logging
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import regex

from rlhf.errors import EvaluationError, TrainingError
from rlhf.evaluation.evidence import Baseline, Role
from rlhf.evaluation.suites.figures import Estimator, SuiteResult, Table, numbered
from rlhf.evaluation.suites.files import drawn
from rlhf.evaluation.suites.settings import LLMJudgeSettings
from rlhf.evaluation.win_rate import Clusters, Estimate
from rlhf.models.chat import prompt_text
from rlhf.models.json_endpoint import JSONEndpoint

logger = logging.getLogger(__name__)

NAME = "llm_judge"
_ABOUT = (
    "A language model compares the policy's answer with another's, each pair in both orders (Zheng et al. "
    "2023, arXiv:2306.05685). The policy wins a pair when both orders say so; orders that contradict each "
    "other are a tie. Consistency is the share of pairs on which both orders agree; the first place's share "
    "is how often a decided verdict prefers the answer shown first, 0.5 for a judge without that leaning. "
    "Judges also favour length and answers like their own, which no order undoes."
)
_INSTRUCTIONS = (
    "You are an impartial judge of two answers to a user's request. Consider helpfulness, relevance, "
    "accuracy, depth and level of detail. Do not let the order of the answers, their length or the names of "
    "the assistants influence you. Give a short explanation, then your verdict in exactly this form: [[A]] "
    "if answer A is better, [[B]] if answer B is better, [[C]] for a tie."
)
_VERDICT = regex.compile(r"\[\[([ABC])\]\]")
_PER_MILLION = 1_000_000
_SHOWN = 4

Verdict = Literal["first", "second", "tie"]
_VERDICTS: Mapping[str, Verdict] = {"A": "first", "B": "second", "C": "tie"}


@dataclass
class Usage:
    """What the judge has cost so far."""

    requests: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0


class LLMJudge:
    """The judge behind its endpoint.

    Args:
        make_endpoint: opens the endpoint, at the first question.

    Raises:
        ConfigError: the variable of the API key is not set.
    """

    def __init__(
        self,
        settings: LLMJudgeSettings,
        seed: int,
        make_endpoint: Callable[[LLMJudgeSettings], JSONEndpoint] = JSONEndpoint,
    ) -> None:
        self._settings, self._seed = settings, seed
        self._endpoint = make_endpoint(settings)
        self._lock = threading.Lock()
        self.usage = Usage()

    @property
    def cost(self) -> float:
        """In the currency of the prices."""
        price = self._settings
        sent = self.usage.prompt_tokens * price.prompt_price
        return (sent + self.usage.completion_tokens * price.completion_price) / _PER_MILLION

    def result_of_samples(
        self, samples: Sequence[Mapping[str, Any]], roles: Sequence[Role], estimator: Estimator
    ) -> SuiteResult:
        """The policy against each baseline over the evaluation's own answers.

        Args:
            samples: rows of :class:`rlhf.evaluation.policy.PolicyEvaluationResult`.

        Raises:
            EvaluationError: the endpoint gives no answers, too many are unreadable, or ``max_cost`` is
                reached.
        """
        rows = drawn(samples, self._settings.max_pairs, self._seed)
        baselines: list[Baseline] = [role for role in roles if role != "policy"]
        comparisons: dict[str, Estimate] = {}
        examples: list[dict[str, Any]] = []
        table: list[list[str | int | float]] = []
        unreadable = asked = 0
        for baseline in baselines:
            orders = self._judged(rows, baseline)
            readable = [i for i, (first, second) in enumerate(orders) if first and second]
            asked += len(orders)
            unreadable += len(orders) - len(readable)
            if len(orders) - len(readable) > self._settings.max_unreadable_share * len(orders):
                raise EvaluationError(
                    f"evaluation.suites.llm_judge: {len(orders) - len(readable)} of {len(orders)} pairs "
                    f"against {baseline} got no verdict such as [[A]] from {self._settings.model}; raise "
                    "max_tokens, correct instructions, or use another model."
                )
            pairs = [(first, second) for first, second in orders if first and second]
            clusters = numbered([prompt_text(rows[i]["prompt"]) for i in readable])
            found = pair_figures(pairs, clusters, estimator)
            comparisons |= {f"{name}_vs_{baseline}": estimate for name, estimate in found.items()}
            scores = [pair_score(first, second) for first, second in pairs]
            table.append([baseline, scores.count(1.0), scores.count(0.5), scores.count(0.0)])
            examples += [
                {
                    "prompt": prompt_text(rows[readable[i]]["prompt"]),
                    "policy": rows[readable[i]]["policy_completion"],
                    baseline: rows[readable[i]][f"{baseline}_completion"],
                    "policy's score": scores[i],
                }
                for i in np.argsort(scores, kind="stable")[:_SHOWN]
            ]
        return SuiteResult(
            suite=NAME,
            title=f"Judgements of {self._settings.model}",
            about=_ABOUT,
            items=len(rows),
            left_out=unreadable,
            figures=(),
            comparisons=comparisons,
            plain={
                "requests": float(self.usage.requests),
                "prompt_tokens": float(self.usage.prompt_tokens),
                "completion_tokens": float(self.usage.completion_tokens),
                "cost": self.cost,
                "unreadable_share": unreadable / asked if asked else 0.0,
            },
            tables=(Table("Pairs by outcome", ("against", "won", "tied", "lost"), table),),
            examples=examples,
        )

    def _judged(
        self, rows: Sequence[Mapping[str, Any]], baseline: Baseline
    ) -> list[tuple[Verdict | None, Verdict | None]]:
        """For each row the verdict with the policy's answer first, and with it second; ``None`` where it
        cannot be read. Equal answers tie without being sent."""
        with ThreadPoolExecutor(self._settings.concurrency, thread_name_prefix="llm-judge") as pool:
            pending = []
            for row in rows:
                question = prompt_text(row["prompt"])
                ours, theirs = str(row["policy_completion"]), str(row[f"{baseline}_completion"])
                orders = [] if ours == theirs else [(ours, theirs), (theirs, ours)]
                pending.append([pool.submit(self._verdict, question, *order) for order in orders])
            try:
                found = [[future.result() for future in futures] for futures in pending]
            except (EvaluationError, TrainingError) as error:
                pool.shutdown(wait=False, cancel_futures=True)
                raise EvaluationError(f"evaluation.suites.llm_judge: {error}") from error
        return [(verdicts[0], verdicts[1]) if verdicts else ("tie", "tie") for verdicts in found]

    def _verdict(self, question: str, first: str, second: str) -> Verdict | None:
        limit = self._settings.max_cost
        with self._lock:
            if limit is not None and self.cost >= limit:
                raise EvaluationError(
                    f"the judge has cost {self.cost:.2f} after {self.usage.requests} requests, and max_cost "
                    f"is {limit:g}; raise it or lower max_pairs."
                )
        answer = self._endpoint.post(self._request(question, first, second))
        try:
            text = answer["choices"][0]["message"]["content"] or ""
            found = read_verdict(text)
        except (KeyError, IndexError, TypeError) as error:
            raise EvaluationError(
                f"{self._endpoint.subject} answered without choices[0].message.content; name the address of "
                "an OpenAI-compatible /chat/completions in url."
            ) from error
        usage = answer.get("usage") or {}
        if limit is not None and not usage:
            raise EvaluationError(
                f"{self._endpoint.subject} does not say how many tokens it used, so that max_cost cannot be "
                "kept; leave it out, or use an endpoint that gives usage."
            )
        with self._lock:
            self.usage.requests += 1
            self.usage.prompt_tokens += int(usage.get("prompt_tokens") or 0)
            self.usage.completion_tokens += int(usage.get("completion_tokens") or 0)
        return found

    def _request(self, question: str, first: str, second: str) -> dict[str, Any]:
        content = (
            f"[Request]\n{question}\n\n[Start of answer A]\n{first}\n[End of answer A]\n\n"
            f"[Start of answer B]\n{second}\n[End of answer B]"
        )
        body: dict[str, Any] = {
            "model": self._settings.model,
            "temperature": 0,
            "max_tokens": self._settings.max_tokens,
            "messages": [
                {"role": "system", "content": self._settings.instructions or _INSTRUCTIONS},
                {"role": "user", "content": content},
            ],
        }
        return body if self._settings.seed is None else {**body, "seed": self._settings.seed}


def read_verdict(text: str) -> Verdict | None:
    """The last verdict in a judge's answer, since it may weigh others before; ``None`` without one."""
    found = _VERDICT.findall(text)
    return _VERDICTS[found[-1]] if found else None


def pair_score(policy_first: Verdict, policy_second: Verdict) -> float:
    """1 where both orders prefer the policy, 0 where both prefer the other, else one half."""
    if (policy_first, policy_second) == ("first", "second"):
        return 1.0
    if (policy_first, policy_second) == ("second", "first"):
        return 0.0
    return 0.5


def pair_figures(
    pairs: Sequence[tuple[Verdict, Verdict]], clusters: Clusters, estimator: Estimator
) -> dict[str, Estimate]:
    """Win rate, ties, consistency and leaning to the first place.

    Args:
        pairs: verdicts with the policy first, and with the policy second.
        clusters: the prompt of each pair.
    """
    scores = np.array([pair_score(first, second) for first, second in pairs])
    opposite: Mapping[Verdict, Verdict] = {"first": "second", "second": "first", "tie": "tie"}
    consistent = np.array([float(opposite[first] == second) for first, second in pairs])
    decided = np.array([sum(v != "tie" for v in pair) for pair in pairs], dtype=float)
    to_first = np.array([sum(v == "first" for v in pair) for pair in pairs], dtype=float)
    figures = {
        "win_rate": estimator.win_rate(scores, clusters),
        "tie_share": estimator.share((scores == 0.5).astype(float), clusters),
        "consistency": estimator.share(consistent, clusters),
    }
    if len(set(clusters[decided > 0].tolist())) > 1:
        figures["first_place_share"] = estimator.ratio(to_first, decided, clusters)
    return figures
