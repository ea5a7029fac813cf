"""moemerge builds a sparse mixture-of-experts language model from dense fine-tunes of one base model.

The commands' verbs are functions of `moemerge.api`.
"""

__version__ = "0.1.0"
