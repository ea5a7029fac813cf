"""Writes a mixture in the form of other runtimes: a GGUF file for llama.cpp and Ollama."""

from moemerge.export.run import Exported, export_gguf

__all__ = ["Exported", "export_gguf"]
