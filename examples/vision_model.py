"""The vision demo's LLaVA: the demo's base as its language model, and the small tower and projector kept in `vision/`.

Plain transformers loads what `write_base` writes. The language model is the base's, rounded to bf16, with one token
more (`<image>`), whose place the picture takes.
"""

from __future__ import annotations

import math
import sys
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import LlavaConfig, LlavaForConditionalGeneration, LlavaProcessor, SiglipVisionConfig

from pictures import KINDS, SIDE, Asked, Picture
from train_specialists import HERE, load_base

EYES, PICTURES = HERE / "vision", HERE / "adapters" / "pictures"
IMAGE = "<image>"
PATCH, PATCHES = 16, 4
BESIDE = ("model.vision_tower.", "model.multi_modal_projector.")
"""What the names of tower and projector begin with, in memory."""


def assemble(eyes: Path | None = EYES) -> tuple[LlavaForConditionalGeneration, Any]:
    """The LLaVA in fp32 and its tokenizer.

    Args:
        eyes: where tower and projector are; None for fresh ones.
    """
    language: Any
    tokenizer: Any
    language, tokenizer = load_base()
    for key in ("_name_or_path", "_model_name_or_path"):  # a path of this machine
        language.config.__dict__.pop(key, None)
    rows = len(tokenizer)
    tokenizer.add_special_tokens({"additional_special_tokens": [IMAGE]}, replace_extra_special_tokens=False)
    language.resize_token_embeddings(len(tokenizer), mean_resizing=False)
    vision = SiglipVisionConfig(
        hidden_size=128, intermediate_size=512, num_hidden_layers=4, num_attention_heads=4, image_size=SIDE,
        patch_size=PATCH, vision_use_head=False,
    )  # fmt: skip
    config = LlavaConfig(
        vision_config=vision, text_config=language.config, image_token_index=tokenizer.convert_tokens_to_ids(IMAGE),
        vision_feature_layer=-1, vision_feature_select_strategy="full", image_seq_length=PATCHES,
        tie_word_embeddings=True,
    )  # fmt: skip
    model: Any = LlavaForConditionalGeneration(config)
    model.model.language_model = language.model
    model.lm_head = language.lm_head
    model.generation_config = language.generation_config
    words = model.get_input_embeddings().weight.data
    words[rows:] = words[:rows].mean(0)  # read by no picture, as those of its patches take its place
    if eyes is None:
        start_small(model.model.multi_modal_projector, words[:rows])
    else:
        stored = load_file(eyes / "model.safetensors")
        missing, unexpected = model.load_state_dict({name: w.float() for name, w in stored.items()}, strict=False)
        assert not unexpected
        assert not [name for name in missing if name.startswith(BESIDE)]
    return model.eval(), tokenizer


def start_small(projector: Any, words: Tensor) -> None:
    """A fresh projector, whose outputs lie near the middle of the words."""
    for layer in (projector.linear_1, projector.linear_2):
        nn.init.xavier_uniform_(layer.weight)
    nn.init.zeros_(projector.linear_1.bias)
    projector.linear_2.weight.data *= float(words.std())
    projector.linear_2.bias.data = words.mean(0)


def save_eyes(model: Any, folder: Path) -> None:
    """Writes tower and projector in bf16."""
    folder.mkdir(parents=True, exist_ok=True)
    kept = {name: weight for name, weight in model.state_dict().items() if name.startswith(BESIDE)}
    save_file({name: weight.to(torch.bfloat16).contiguous() for name, weight in kept.items()},
              folder / "model.safetensors", metadata={"format": "pt"})  # fmt: skip


def processor_of(tokenizer: Any) -> LlavaProcessor:
    """What makes pixels and tokens of pictures and texts."""
    from transformers import SiglipImageProcessorPil

    images = SiglipImageProcessorPil(size={"height": SIDE, "width": SIDE})
    return LlavaProcessor(images, tokenizer, patch_size=PATCH, vision_feature_select_strategy="full")


def write_base(folder: Path) -> None:
    """The whole LLaVA as plain transformers has it, in bf16."""
    model, tokenizer = assemble()
    nn.Module.to(model, torch.bfloat16)
    model.save_pretrained(folder)
    processor_of(tokenizer).save_pretrained(folder)


def pixels(pictures: Iterable[Picture]) -> Tensor:
    """`[pictures, 3, 32, 32]` from -1 to 1, as the processor makes them."""
    stacked = torch.from_numpy(np.stack(list(pictures)))
    return stacked.permute(0, 3, 1, 2).float() / 127.5 - 1


def encode(tokenizer: Any, asked: Sequence[Asked]) -> tuple[list[int], list[int]]:
    """Token ids, and labels: those of the answers, each with the line break that ends it; -100 elsewhere."""
    image = tokenizer.convert_tokens_to_ids(IMAGE)
    ids = [*tokenizer("Picture:")["input_ids"], *[image] * PATCHES, *tokenizer("\n")["input_ids"]]
    labels = [-100] * len(ids)
    for one in asked:
        question, answer = (tokenizer(f"{text}\n")["input_ids"] for text in (one.question, one.answer))
        ids += [*question, *answer]
        labels += [*[-100] * len(question), *answer]
    return ids, labels


@torch.inference_mode()
def answers(
    model: Any, tokenizer: Any, asked: Sequence[tuple[Picture, Asked]], examples: str = "", at_once: int = 50
) -> list[str]:
    """What a model answers greedily, as far as the first token that is not the right answer's.

    One forward pass over question and answer tells it: up to there greedy writing gives the same tokens. An answer is
    right where its tokens are all the most likely ones, the line break that ends it among them.

    Args:
        model: a LLaVA of transformers.
        tokenizer: its tokenizer.
        asked: pictures and questions; those of one length go through the model together.
        examples: a text that goes before each.
        at_once: how many go together at most.
    """
    model.eval()
    before = tokenizer(examples)["input_ids"] if examples else []
    by_length = defaultdict(list)
    for index, (_, one) in enumerate(asked):
        ids, labels = encode(tokenizer, [one])
        by_length[len(ids)].append((index, before + ids, sum(label != -100 for label in labels)))
    found: dict[int, str] = {}
    for group in by_length.values():
        for start in range(0, len(group), at_once):
            indices, rows, lengths = zip(*group[start : start + at_once], strict=True)
            tokens = torch.tensor(rows)
            states = model.model(
                input_ids=tokens, pixel_values=pixels(asked[index][0] for index in indices).to(model.dtype),
                use_cache=False,
            ).last_hidden_state  # fmt: skip
            for index, row, own, length in zip(indices, tokens, states, lengths, strict=True):
                wanted, likely = row[-length:], model.lm_head(own[-length - 1 : -1]).argmax(-1)
                wrong = (likely != wanted).nonzero().flatten().tolist()
                written = likely[: wrong[0] + 1 if wrong else length]
                found[index] = tokenizer.decode(written, skip_special_tokens=True).strip().partition("\n")[0].strip()
    return [found[index] for index in range(len(asked))]


def wilson(right: int, of: int) -> tuple[float, float]:
    """The 95 % interval of a share (Wilson 1927)."""
    z, share = 1.96, right / of
    middle = (share + z * z / (2 * of)) / (1 + z * z / of)
    half = z / (1 + z * z / of) * math.sqrt(share * (1 - share) / of + z * z / (4 * of * of))
    return max(0.0, middle - half), min(1.0, middle + half)


def right_by_kind(asked: Sequence[Asked], found: Sequence[str]) -> Mapping[str, tuple[int, int]]:
    """For each kind of question, and for `all`, how many answers are right, and of how many."""
    counts = {}
    for kind in ("all", *KINDS):
        pairs = [(one.answer, answer) for one, answer in zip(asked, found, strict=True) if kind in ("all", one.kind)]
        counts[kind] = (sum(wanted == answer for wanted, answer in pairs), len(pairs))
    return {kind: (right, of) for kind, (right, of) in counts.items() if of}


if __name__ == "__main__":
    write_base(Path(sys.argv[1]))
