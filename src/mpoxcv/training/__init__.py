"""The LightningModule, and what a run writes while it trains."""
