"""The tensors of a PPO run that its checkpoints hold: networks, optimizers and the moving average."""

from collections.abc import Mapping, Sequence

from torch import Tensor

from rlhf.training.ppo.actor_critic import ActorCritic, MovingAverage, copy_into
from rlhf.training.ppo.checkpoint import optimizer_tensors, restore_optimizer
from rlhf.training.ppo.learner import OptimizerGroup
from rlhf.training.ppo.sharding import gathered, placed_like


def state_tensors(
    models: ActorCritic,
    groups: Sequence[OptimizerGroup],
    average: MovingAverage | None,
    *,
    keep: bool = True,
) -> dict[str, Mapping[str, Tensor]]:
    """What training has changed so far, by part and name; of networks only what is trained.

    Args:
        keep: whether this process wants them. All must ask at once where networks are sharded.
    """
    tensors: dict[str, Mapping[str, Tensor]] = {
        "policy": models.policy_parameters(),
        "critic": models.value_parameters(),
        **{f"optimizer-{g.name}": optimizer_tensors(g.optimizer, g.parameters) for g in groups},
    }
    if average is not None:
        tensors["average"] = average.weights
    return {part: gathered(named, keep=keep) for part, named in tensors.items()}


def restore_tensors(
    tensors: Mapping[str, Mapping[str, Tensor]],
    models: ActorCritic,
    groups: Sequence[OptimizerGroup],
    average: MovingAverage | None,
) -> None:
    """Put back, in place, what :func:`state_tensors` gave.

    Raises:
        ModelError: the weights are those of another model.
    """
    copy_into(models.policy_parameters(), tensors["policy"])
    copy_into(models.value_parameters(), tensors["critic"])
    for group in groups:
        restore_optimizer(group.optimizer, group.parameters, tensors[f"optimizer-{group.name}"])
    if average is not None:
        average.weights = {
            name: placed_like(t, average.weights[name]) for name, t in tensors["average"].items()
        }
