"""Opens one model, wherever it lies, as a lazily read `Checkpoint`."""

from moemerge.sources.checkpoint import ByteRange, Checkpoint, TensorInfo
from moemerge.sources.open import open_checkpoint

__all__ = ["ByteRange", "Checkpoint", "TensorInfo", "open_checkpoint"]
