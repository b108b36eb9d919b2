"""The `evaluate` module `fairness_gap`: this folder is what `evaluate.load` reads, and a metric Space."""
