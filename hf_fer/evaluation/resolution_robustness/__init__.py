"""The `evaluate` module `resolution_robustness`: this folder is what `evaluate.load` reads, and a metric Space."""
