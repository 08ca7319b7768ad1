"""The agent's network: inputs, normaliser, tokens, stack, head."""
