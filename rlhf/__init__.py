"""RLHF as a library: feedback, models, training, evaluation and registry logic, free of any orchestrator."""
