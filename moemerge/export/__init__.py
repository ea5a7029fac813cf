"""Writes a mixture in the form of other runtimes: a GGUF file for llama.cpp and Ollama."""

from moemerge.export.run import GGUF_TYPES, Exported, export_gguf

__all__ = ["GGUF_TYPES", "Exported", "export_gguf"]
