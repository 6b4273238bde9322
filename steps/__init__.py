"""ZenML steps, one per file: typed settings and artifacts in, artifacts out, a few lines that call the
library.

Trainers are imported inside the steps: compiling and caching a pipeline must not load torch.
"""
