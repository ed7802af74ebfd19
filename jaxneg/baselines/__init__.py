"""Score functions without a network, from counts to factorisations. Nothing in here needs jax."""
