"""A trained run measured on held-out events, beside baselines: report, probes, page and plots."""
