"""Many runs over a grid of options and seeds: grids, workers, table and plots."""
