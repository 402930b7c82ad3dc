"""The language model as a policy: backbone, adapters, sequence layout, session, LightningModule."""
