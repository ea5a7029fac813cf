"""Opens one model, wherever it lies, as a lazily read `Checkpoint`."""

from moemerge.sources.checkpoint import ByteRange, Checkpoint, TensorInfo
from moemerge.sources.open import open_checkpoint
from moemerge.sources.pieces import Piece, PiecedCheckpoint

__all__ = ["ByteRange", "Checkpoint", "Piece", "PiecedCheckpoint", "TensorInfo", "open_checkpoint"]
