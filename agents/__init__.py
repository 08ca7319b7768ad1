"""Return-conditioned recurrent agents: tokens, model, policy, trainer, checkpoints."""
