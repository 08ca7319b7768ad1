"""What acts: the policy, the engines that run the model's step, and the export of that step."""
