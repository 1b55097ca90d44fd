"""What tasks that write text share: measures, baselines, columns, prompts and constraints. No torch, no model."""
