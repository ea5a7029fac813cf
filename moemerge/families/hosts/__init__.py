"""One small file a host: `HOST`."""
