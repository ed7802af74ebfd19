"""Products of bfloat16 that are exact in float32, where one side is ones and zeros: what a TPU multiplies fastest."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int


def parts(x: jax.Array) -> list[jax.Array]:
    """Three bfloat16 arrays that add up to x, of float32, so that products with ones and zeros are exact."""
    found: list[jax.Array] = []
    for _ in range(3):
        # as a bfloat16, by a function that no compiler takes for one that changes nothing
        part = jax.lax.reduce_precision(x, exponent_bits=8, mantissa_bits=7)
        found.append(part.astype(jnp.bfloat16))
        x = x - part
    return found


def product(left: jax.Array, right: jax.Array) -> jax.Array:
    """Of bfloat16 arrays, summed in float32."""
    return jnp.dot(left, right, preferred_element_type=jnp.float32)


@jax.custom_vjp
def few_rows(table_CD: Float[Array, "C D"], code_N: Int[Array, "N"]) -> Float[Array, "N D"]:
    """Rows of a small table of codes: products with a one where the code is, forward and for the gradient."""
    chosen_NC = jax.nn.one_hot(code_N, len(table_CD), dtype=jnp.bfloat16)
    empty_ND = jnp.zeros((len(code_N), table_CD.shape[1]), jnp.float32)
    return sum((product(chosen_NC, part_CD) for part_CD in parts(table_CD)), empty_ND)


def _few_rows_kept(table_CD: jax.Array, code_N: jax.Array) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    return few_rows(table_CD, code_N), (table_CD, code_N)


def _few_rows_back(saved: tuple[jax.Array, jax.Array], dy_ND: jax.Array) -> tuple[jax.Array, None]:
    table_CD, code_N = saved
    chosen_CN = jax.nn.one_hot(code_N, len(table_CD), dtype=jnp.bfloat16, axis=0)
    return sum((product(chosen_CN, part_ND) for part_ND in parts(dy_ND)), jnp.zeros_like(table_CD)), None


few_rows.defvjp(_few_rows_kept, _few_rows_back)
