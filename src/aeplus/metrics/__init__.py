"""torchmetrics classes and their functional forms; they never run a model."""
