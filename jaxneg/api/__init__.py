"""What ``import jaxneg`` offers: the verbs of the command line as functions, with the same refusals as exceptions.

Paths are strings or paths alike, and so are what the verbs return: a Store where a store is asked for, a Run where a
run is. Mistakes raise UserError of one line, which speaks of settings as the command line does: ``--min-item-count`` is
the argument ``min_item_count``.
"""

from jaxneg.api.registries import (
    register_encoder as register_encoder,
    register_loss as register_loss,
    register_reader as register_reader,
    register_sampler as register_sampler,
)
from jaxneg.api.results import (
    Embeddings as Embeddings,
    Export as Export,
    Report as Report,
    Run as Run,
    Runs as Runs,
    Store as Store,
    TimeToTarget as TimeToTarget,
)
from jaxneg.api.verbs import (
    evaluate as evaluate,
    export as export,
    open_run as open_run,
    prepare as prepare,
    runs as runs,
    time_to_target as time_to_target,
    train as train,
)
