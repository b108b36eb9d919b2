"""Checkpoints from anywhere: checked before anything is built of them, then loaded."""
