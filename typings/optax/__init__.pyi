"""What jaxneg uses of optax, which does not vouch for its types."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Protocol, TypeVar

import jax
from jax.typing import ArrayLike
from optax import tree as tree

Params = TypeVar("Params")
Schedule = Callable[[ArrayLike], ArrayLike]  # step -> value
OptState = Any

class ScaleByAdamState(NamedTuple):
    count: jax.Array
    mu: Any
    nu: Any

class GradientTransformation(NamedTuple):
    init: Callable[[Any], OptState]
    update: _Update

class _Update(Protocol):
    def __call__(
        self, updates: Params, state: OptState, params: Params | None = None
    ) -> tuple[Params, OptState]: ...

def adamw(
    learning_rate: Schedule, *, b2: float, weight_decay: float, mask: Callable[[Any], Any]
) -> GradientTransformation: ...
def apply_updates(params: Params, updates: Params) -> Params: ...
def chain(*args: GradientTransformation) -> GradientTransformation: ...
def clip_by_global_norm(max_norm: float) -> GradientTransformation: ...
def constant_schedule(value: float) -> Schedule: ...
def cosine_decay_schedule(init_value: float, decay_steps: int) -> Schedule: ...
def identity() -> GradientTransformation: ...
def join_schedules(schedules: Sequence[Schedule], boundaries: Sequence[int]) -> Schedule: ...
def linear_schedule(init_value: float, end_value: float, transition_steps: int) -> Schedule: ...
