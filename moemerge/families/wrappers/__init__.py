"""One small file a wrapper: `WRAPPER`. None is built yet."""
