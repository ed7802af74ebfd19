from typing import Any

from jaxlib._jax import Client as Client, Device as Device

def __getattr__(name: str) -> Any: ...
