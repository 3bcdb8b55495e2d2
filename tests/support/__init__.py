"""Real programs for tests: each module starts one on free ports in a temporary directory."""
