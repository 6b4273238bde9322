"""The errors a user can cause. Each message is one sentence that names the key or record and the remedy."""


class RLHFError(Exception):
    """Base of every error whose message is meant for the user; the command line prints it without a trace."""


class ConfigError(RLHFError):
    """A setting is missing, unknown or contradicts another."""


class DataError(RLHFError):
    """Feedback that cannot be read, recognised or used."""


class AgreementError(DataError):
    """Annotators who agree less than the config asks for."""


class LedgerError(DataError):
    """A feedback ledger that is absent, out of reach, or no longer holds what is asked of it."""


class ModelError(RLHFError):
    """A model or tokenizer that is absent, damaged or of the wrong kind."""


class TrainingError(RLHFError):
    """Training that cannot go on: non-finite loss, a checkpoint of other settings, nothing left to train
    on."""


class CheckpointError(TrainingError):
    """A checkpoint that a run cannot continue: of other code, settings, models or data, or damaged."""


class InterruptedRunError(RLHFError):
    """A run that was asked to stop and can be continued; nothing is wrong with it."""


class EvaluationError(RLHFError):
    """A judgement that cannot be made: no prompts, a reward that is not a finite number, unequal answers."""


class PromotionError(RLHFError):
    """A registry move that is refused: the champion changed, or the decision is about another model."""
