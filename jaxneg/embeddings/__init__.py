"""Item tables on a mesh: where their rows live, how a step fetches and changes them, ranks over all of them."""
