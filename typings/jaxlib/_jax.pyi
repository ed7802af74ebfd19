"""Devices as jaxneg asks them: jaxlib is compiled, and comes without a word on its types."""

from typing import Any

class Device:
    id: int
    process_index: int
    platform: str
    device_kind: str
    compute_capability: str  # of NVIDIA and AMD devices alone
    def memory_stats(self) -> dict[str, int] | None: ...

class Client: ...

def __getattr__(name: str) -> Any: ...
