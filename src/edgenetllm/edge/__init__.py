"""The modules that run on the edge: bundle, engine, replay. No Lightning, Hydra, W&B or peft."""
