"""What a person is told of settings that do nothing, or with which figures say less than they seem to."""

from jaxneg.config import Config

FEW = 20  # steps of an epoch below which figures by epoch are coarse


def warnings(config: Config, per_epoch: int, rejections: int, *, none_to_draw: bool = False) -> list[str]:
    """A line for each setting that does nothing, or with which figures and early stopping say less than they seem to.

    Args:
      config: the experiment.
      per_epoch: steps of an epoch.
      rejections: events of the training window with disliked items.
      none_to_draw: whether hard negatives are asked for, and no target has one in the scope, by what counts.
    """
    warmup, patience, epochs = config.optim.warmup_steps, config.train.patience, config.train.epochs
    allowed = patience * (config.train.evaluate_every or per_epoch)
    found: list[str] = []
    if config.data.p_hard > 0 and config.data.negatives > 0 and rejections == 0:
        found.append(
            f"nothing was rejected before the validation, so --data.p-hard {config.data.p_hard:g} draws random "
            "negatives: prepare with feedback kinds that count as negative (--negative), or give --data.p-hard 0"
        )
    elif none_to_draw:
        found.append(
            f"no target has a rejection to draw by --data.hard-scope {config.data.hard_scope} and --data.hard-opinion "
            f"{config.data.hard_opinion}, so --data.p-hard {config.data.p_hard:g} draws random negatives: choose "
            "others, or give --data.p-hard 0"
        )
    if per_epoch < FEW:
        found.append(
            f"an epoch has {per_epoch} steps, fewer than {FEW}: figures by epoch are coarse; "
            f"lower --data.batch-size ({config.data.batch_size})"
        )
    if warmup >= epochs * per_epoch:
        found.append(
            f"--optim.warmup-steps {warmup} is no less than all {epochs * per_epoch} steps: "
            "the learning rate never reaches its peak"
        )
    elif patience and warmup > allowed:
        found.append(
            f"--optim.warmup-steps {warmup} is more than the {allowed} steps that --train.patience {patience} allows "
            "without a better validation: patience counts after warm-up"
        )
    return found
