from collections.abc import Callable, Mapping, Sequence

class LatestN:
    def __init__(self, n: int) -> None: ...

class BestN:
    def __init__(self, *, get_metric_fn: Callable[[Mapping[str, float]], float], n: int) -> None: ...

class AnyPreservationPolicy:
    def __init__(self, policies: Sequence[LatestN | BestN]) -> None: ...
