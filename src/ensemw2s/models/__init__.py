"""Loading models, adapters, and the built-in model zoo."""
