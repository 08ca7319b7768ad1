"""What is written to disk and read back: checkpoints, the training state, the best checkpoint."""
