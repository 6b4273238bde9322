"""An evaluation's answers as a table in MLflow, whose UI shows and filters it, and compares it between runs.

Written as ``mlflow.log_table`` writes it, but through the sink, so that it waits where the server is away.
``mlflow.genai.evaluate`` would make a trace for each answer in an experiment of another kind and score it
anew, without pairs or intervals; the answers have their scores already.
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from mlflow.utils.mlflow_tags import MLFLOW_LOGGED_ARTIFACTS

from ops.tracking import MLflowSink
from rlhf.models.chat import prompt_text
from rlhf.tracking import MetricSink

TABLE = "evaluation/samples.json"


def log_samples(sink: MetricSink, samples: Sequence[Mapping[str, Any]]) -> None:
    """Keep every prompt with the answers of all models and their rewards.

    Args:
        samples: rows of :class:`rlhf.evaluation.policy.PolicyEvaluationResult`.
    """
    columns = list(dict.fromkeys(name for row in samples for name in row))
    rows = [[_cell(name, row.get(name)) for name in columns] for row in samples]
    sink.log_text(json.dumps({"columns": columns, "data": rows}), TABLE)
    if isinstance(sink, MLflowSink):  # only with the tag does the UI take the file for a table
        sink.set_tags({MLFLOW_LOGGED_ARTIFACTS: json.dumps([{"path": TABLE, "type": "table"}])})


def _cell(name: str, value: Any) -> Any:
    return prompt_text(value) if name == "prompt" and value is not None else value
