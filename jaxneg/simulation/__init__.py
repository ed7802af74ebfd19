"""Simulated listeners whose taste is known: logs of them, and online tests of models on them."""
