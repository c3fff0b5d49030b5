"""What every implementation must do: one suite for all stores, logs and providers."""
