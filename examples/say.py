"""Loads a built folder by plain transformers, in a process that knows nothing of moemerge, and lets it write.

python examples/say.py out/demo
"""

from __future__ import annotations

import sys
from typing import Any

from transformers import AutoModelForCausalLM, AutoTokenizer
from transformers.utils import logging

PROMPTS = {
    "code": "class Queue:\n    def append(self, item):",
    "math": "Question: A box holds 12 pens and Lea buys 3 boxes. How many pens does she have?\nAnswer:",
    "french": "Pour afficher la liste des fichiers,",
}


def main() -> None:
    """Prints a few greedy tokens in each domain."""
    logging.disable_progress_bar()
    logging.set_verbosity_error()
    folder = sys.argv[1]
    model: Any = AutoModelForCausalLM.from_pretrained(folder, dtype="auto")
    tokenizer = AutoTokenizer.from_pretrained(folder)
    for domain, prompt in PROMPTS.items():
        inputs = tokenizer(prompt, return_tensors="pt")
        written = model.generate(**inputs, max_new_tokens=32, do_sample=False)[0, inputs["input_ids"].shape[1] :]
        print(f"[{domain}] {prompt}\n    {tokenizer.decode(written, skip_special_tokens=True)!r}")


if __name__ == "__main__":
    main()
