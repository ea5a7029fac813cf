"""Opens one model, wherever it lies, as a lazily read `Checkpoint`."""

from moemerge.sources.checkpoint import ByteRange, Checkpoint, TensorInfo
from moemerge.sources.open import open_checkpoint
from moemerge.sources.view import Piece, View, stored

__all__ = ["ByteRange", "Checkpoint", "Piece", "TensorInfo", "View", "open_checkpoint", "stored"]
