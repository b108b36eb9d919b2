"""The `evaluate` module `fer_metrics`: this folder is what `evaluate.load` reads, and a metric Space."""
