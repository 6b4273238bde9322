"""Makes ``zenml pipeline run rlhf_pipeline`` work: the command loads a *module* by that name and wants a
pipeline.

The module replaces itself by the pipeline object. Started through ZenML's command line it also does what
`rlhf run` does before a run: validates the config given with ``-c``, which ZenML would accept with unknown
keys, and takes the embedded default when none is given.
"""

import sys

from ops import environment

environment.configure()

import click  # noqa: E402  # ZenML and torch read the environment when they are imported

from ops.launch import prepare_for_zenml_cli  # noqa: E402
from pipelines.rlhf_pipeline import rlhf_pipeline  # noqa: E402

_context = click.get_current_context(silent=True)
_pipeline = rlhf_pipeline if _context is None else prepare_for_zenml_cli(rlhf_pipeline, _context)
sys.modules[__name__] = _pipeline
