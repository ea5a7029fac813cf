"""One small file a dense family: `FAMILY`."""
