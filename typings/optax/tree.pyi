from typing import Any

import jax

def norm(tree: Any) -> jax.Array: ...
