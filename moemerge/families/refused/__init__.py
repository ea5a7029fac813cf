"""The model types that are refused, by their reasons. Each file has a tuple `REFUSALS`, found by itself."""
