"""Measures what quantized exports cost: `python benchmarks/quantized_export.py BASE`, the directory of a base
model such as the `base_model` of a run of the embedded config.

It is fine-tuned twice on the built-in sample, with and without quantization-aware training, and exported by
every scheme. What plain transformers loads from each export is compared with the network before it was
quantized, on the answers of held-out demonstrations.
"""

import argparse
import math
import tempfile
from pathlib import Path
from typing import get_args

import torch
from datasets import Dataset
from transformers import AutoModelForCausalLM, PreTrainedModel

from rlhf.feedback.ingest import ingest
from rlhf.feedback.settings import DatasetSettings, FeedbackSettings, SampleSource
from rlhf.feedback.views import prepare
from rlhf.models.directory import ModelDirectory
from rlhf.models.export import export_policy
from rlhf.models.loading import load_policy, load_tokenizer
from rlhf.models.settings_quantization import QuantizationAwareSettings, QuantizationScheme
from rlhf.sample.settings import SupportDeskSettings
from rlhf.training.rows import IGNORED, encode_demonstrations
from rlhf.training.settings import OptimizerSettings, SFTSettings
from rlhf.training.sft import train_sft

PLAIN = SFTSettings(
    epochs=3,
    batch_size=32,
    max_length=160,
    evaluations=1,
    optimizer=OptimizerSettings(learning_rate=2e-3, beta2=0.98, weight_decay=0.01),
)
AWARE = QuantizationAwareSettings(scheme="int8_dynamic_int4", delay_steps=100)


def main() -> None:
    """Print one row for each export."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("base", type=Path)
    parser.add_argument("--demonstrations", type=int, default=3000, help="Size of the sample.")
    given = parser.parse_args()
    sample = SampleSource(
        settings=SupportDeskSettings(demonstrations=given.demonstrations, comparisons=0, archive=0)
    )
    datasets = DatasetSettings(near_duplicate_threshold=None, contamination_ngram=None)
    views = prepare(ingest(FeedbackSettings(sources=(sample,))).table, datasets)
    print(
        "| trained | exported | MB | loss | KL | same first choice | largest logit error |\n"
        "|---|---|---|---|---|---|---|"
    )
    with tempfile.TemporaryDirectory() as work:
        for trained in ("plain", AWARE.scheme):
            aware = AWARE if trained == AWARE.scheme else None
            settings = PLAIN.model_copy(update={"quantization_aware": aware})
            policy = train_sft(given.base, views.demonstrations, settings, Path(work) / trained)
            for scheme in (None, *get_args(QuantizationScheme)):
                out = Path(work) / f"{trained}-{scheme}"
                print(f"| {trained} | {row(policy, scheme, out, views.demonstrations['test'])} |", flush=True)


def row(policy: ModelDirectory, scheme: QuantizationScheme | None, out: Path, test: Dataset) -> str:
    """Cells of one export: size of the weights; loss and KL from the full-precision policy in nats per token;
    how often the most probable token is the same; the largest difference of a logit, in standard deviations
    of the logits."""
    done = export_policy(policy.path, out, quantize=scheme)
    rows = encode_demonstrations(test, load_tokenizer(policy), max_length=PLAIN.max_length).dataset
    exported = AutoModelForCausalLM.from_pretrained(done.path).eval()
    full = load_policy(policy)
    loss = kl = same = largest = 0.0
    count, square = 0, 0.0
    for line in rows:
        ids = torch.tensor([line["input_ids"]])
        wanted = torch.tensor(line["labels"][1:])
        learnt = wanted != IGNORED
        before, after = (_logits(model, ids)[learnt] for model in (full, exported))
        p, q = before.log_softmax(-1), after.log_softmax(-1)
        loss -= q.gather(-1, wanted[learnt, None]).sum().item()
        kl += (p.exp() * (p - q)).sum().item()
        same += (before.argmax(-1) == after.argmax(-1)).sum().item()
        largest = max(largest, (after - before).abs().max().item())
        square += before.var(-1).sum().item()
        count += int(learnt.sum())
    size = (done.path / "model.safetensors").stat().st_size / 1e6
    return (
        f"{scheme or 'full precision'} | {size:.2f} | {loss / count:.4f} | {kl / count:.5f} "
        f"| {same / count:.1%} | {largest / math.sqrt(square / count):.3f}"
    )


@torch.no_grad()
def _logits(model: PreTrainedModel, ids: torch.Tensor) -> torch.Tensor:
    return model(ids).logits[0, :-1].float()


if __name__ == "__main__":
    main()
