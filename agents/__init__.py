"""Return-conditioned recurrent agents: tokens, model, policy, trainer, checkpoints. Run from the checkout."""
