"""Loads the vision demo's mixture by plain transformers, in a process that knows nothing of moemerge, and asks it.

python examples/look.py out/vision
"""

from __future__ import annotations

import sys
from typing import Any

from PIL import Image
from transformers import AutoModelForImageTextToText, AutoProcessor
from transformers.utils import logging

from pictures import held_out
from say import PROMPTS

SOME = (0, 1, 2, 3, 4, 100, 200, -1, -2)
"""Which validation pictures are shown: scenes first, digits last."""


def main() -> None:
    """Prints a few greedy tokens about each picture, and of each text."""
    logging.disable_progress_bar()
    logging.set_verbosity_error()
    folder = sys.argv[1]
    model: Any = AutoModelForImageTextToText.from_pretrained(folder, dtype="auto")
    processor = AutoProcessor.from_pretrained(folder)
    pictures = held_out("validation")
    for number in SOME:
        picture, asked = pictures[number]
        prompt = f"Picture:<image>\n{asked.question}\n"
        inputs = processor(images=Image.fromarray(picture), text=prompt, return_tensors="pt").to(model.dtype)
        written = model.generate(**inputs, max_new_tokens=6, do_sample=False)[0, inputs["input_ids"].shape[1] :]
        answer = processor.decode(written, skip_special_tokens=True).partition("\n")[0]
        print(f"[picture {number}] {asked.question} {answer!r} ({asked.answer})")
    for domain, prompt in PROMPTS.items():
        inputs = processor(text=prompt, return_tensors="pt")
        written = model.generate(**inputs, max_new_tokens=32, do_sample=False)[0, inputs["input_ids"].shape[1] :]
        print(f"[{domain}] {prompt}\n    {processor.decode(written, skip_special_tokens=True)!r}")


if __name__ == "__main__":
    main()
