"""One small file a family that is read as another one: `TRANSLATION`."""
