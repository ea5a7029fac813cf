"""Teach the demo's base to see, on a CPU: a small vision tower and projector, and a specialist that answers questions.

    python examples/train_vision.py

In two stages, as LLaVA is made:

1. The **eyes**, a SigLIP of 0.9 M weights and a projector of 0.4 M, learn to say in four words what a picture shows:
   each of the four patches becomes the embedding of one. The language model does not run. With it they are a whole
   LLaVA, whose language model is the demo's base as it was.
2. The **specialist** is a LoRA on the feed-forward networks of that language model, as they become the expert. It
   learns to answer. Tower and projector are frozen, since a mixture has the base's.

Pictures and questions come from `pictures.py`. Choices were made on its validation pictures; this script never asks for
the test's.
"""

import argparse
import math
import platform
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from peft import LoraConfig, get_peft_model
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from pictures import COLOURS, CORNERS, NUMBERS, SHAPES, Shown, held_out, training
from train_specialists import HERE, Log
from vision_model import EYES, PICTURES, answers, assemble, encode, pixels, right_by_kind, save_eyes

EYES_RATE, EYES_BATCH = 1.5e-3, 96
ADAPTER_RATE = 2e-3
SCENES, DIGITS, WARMUP = 12, 8, 0.05  # pictures a step of the second stage
RANK, ALPHA = 8, 16
STAGES = ("eyes", "specialist")
PHRASES = (("digit", *NUMBERS[1:5]), tuple(COLOURS), (*SHAPES, *NUMBERS[:10]), (*CORNERS, "corners", "middle"))
"""What may be said at each patch."""


def rate_at(done: float) -> float:
    """The share of the peak rate: a short warm-up, then a cosine down to a twentieth."""
    return min(1.0, (done + 0.005) / WARMUP) * (0.05 + 0.475 * (1 + math.cos(math.pi * done)))


def steps(optimizer: torch.optim.Optimizer, count: int) -> Iterator[int]:
    """Step numbers from 1; sets the rate before each, and takes the optimiser's step after it."""
    peaks = [float(group["lr"]) for group in optimizer.param_groups]
    for step in range(1, count + 1):
        for group, peak in zip(optimizer.param_groups, peaks, strict=True):
            group["lr"] = peak * rate_at((step - 1) / count)
        yield step
        weights = [weight for group in optimizer.param_groups for weight in group["params"]]
        torch.nn.utils.clip_grad_norm_(weights, 1.0)
        optimizer.step()
        optimizer.zero_grad()


class Words:
    """The embeddings of the phrases: where the eyes' outputs belong. A phrase of two words has the mean of theirs."""

    def __init__(self, tokenizer: Any, embeddings: Tensor) -> None:
        self.embeddings = [
            torch.stack([embeddings[tokenizer(f" {phrase}")["input_ids"]].mean(0) for phrase in phrases])
            for phrases in PHRASES
        ]
        self.apart = float(torch.pdist(torch.cat(self.embeddings)).square().mean())

    def loss(self, said: Tensor, shown: Sequence[Shown]) -> tuple[Tensor, Tensor]:
        """The loss, and the share of pictures of which all is right; `said` is `[pictures, 4, width]`.

        Each output shall lie close to its phrase, and closer than to the other ones.
        """
        total, right = torch.zeros(()), torch.ones(len(shown), dtype=torch.bool)
        for place, (phrases, words) in enumerate(zip(PHRASES, self.embeddings, strict=True)):
            wanted = torch.tensor([phrases.index(one.words[place]) for one in shown])
            far = (said[:, place, None] - words).square().sum(-1) / self.apart
            total = total + cross_entropy(-10 * far, wanted) + far[torch.arange(len(shown)), wanted].mean()
            right &= far.argmin(-1) == wanted
        return total, right.float().mean()


def train_eyes(
    model: Any, tokenizer: Any, see: Callable[[Tensor], Tensor], count: int, seed: int, log: Log
) -> None:  # fmt: skip
    """The first stage."""
    tower, projector = model.model.vision_tower, model.model.multi_modal_projector
    words = Words(tokenizer, model.get_input_embeddings().weight.data)
    weights = [*tower.requires_grad_(True).parameters(), *projector.requires_grad_(True).parameters()]
    optimizer = torch.optim.AdamW(weights, lr=EYES_RATE, weight_decay=0.02, betas=(0.9, 0.98))
    shown, recent = training(seed), []
    for step in steps(optimizer, count):
        batch = [next(shown) for _ in range(EYES_BATCH)]
        loss, right = words.loss(projector(see(pixels(one.picture for one in batch))), batch)
        loss.backward()
        recent.append((float(loss.detach()), float(right)))
        if step % 100 == 0 or step == count:
            mean_loss, mean_right = np.mean(recent, axis=0)
            log(f"eyes: step {step:4d}  loss {mean_loss:.4f}  all right {mean_right:.3f}")
            recent = []
    model.requires_grad_(False)


def rows_of(tokenizer: Any, shown: Sequence[Shown]) -> tuple[Tensor, Tensor]:
    """Token ids and labels, `[pictures, longest]`, of the pictures with their questions and answers.

    Labels are those of the answers, each with the line break that ends it; all else, and what is padded, is -100.
    """
    rows = [encode(tokenizer, one.asked) for one in shown]
    length = max(len(ids) for ids, _ in rows)
    ids = torch.full((len(rows), length), tokenizer.pad_token_id)
    labels = torch.full((len(rows), length), -100)
    for index, (row, taught) in enumerate(rows):
        ids[index, : len(row)] = torch.tensor(row)
        labels[index, : len(row)] = torch.tensor(taught)
    return ids, labels


def answer_loss(model: Any, ids: Tensor, labels: Tensor, features: Tensor) -> Tensor:
    """The sum of the losses of the answers' tokens. Rows are padded on the right, so no mask is needed."""
    llava = model.model
    embedded = llava.get_input_embeddings()(ids).float()
    spots = (ids == model.config.image_token_id)[..., None]
    embedded = embedded.masked_scatter(spots, features.reshape(-1, features.shape[-1]).to(embedded.dtype))
    states = llava.language_model(inputs_embeds=embedded, use_cache=False).last_hidden_state[:, :-1]
    taught = labels[:, 1:] != -100
    return cross_entropy(model.lm_head(states[taught]).float(), labels[:, 1:][taught], reduction="sum")


def train_specialist(
    model: Any, tokenizer: Any, see: Callable[[Tensor], Tensor], count: int, seed: int, log: Log
) -> Any:  # fmt: skip
    """The second stage; gives the tuned model."""
    config = LoraConfig(
        r=RANK,
        lora_alpha=ALPHA,
        target_modules=r".*language_model.*\.(gate_proj|up_proj|down_proj)",
        task_type="CAUSAL_LM",
    )
    tuned: Any = get_peft_model(model, config)
    trained = [weight for weight in tuned.parameters() if weight.requires_grad]
    for weight in trained:
        weight.data = weight.data.float()
    optimizer = torch.optim.AdamW(trained, lr=ADAPTER_RATE, weight_decay=0.0, betas=(0.9, 0.98))
    scenes, digits = training(seed, digits=0.0), training(seed + 1, digits=1.0)
    recent: list[float] = []
    model.train()
    start = time.monotonic()
    for step in steps(optimizer, count):
        parts = [[next(scenes) for _ in range(SCENES)], [next(digits) for _ in range(DIGITS)]]
        encoded = [rows_of(tokenizer, part) for part in parts]
        taught = sum(int((labels != -100).sum()) for _, labels in encoded)
        total = 0.0
        for part, (ids, labels) in zip(parts, encoded, strict=True):
            with torch.no_grad():
                seen = model.model.multi_modal_projector(see(pixels(one.picture for one in part)))
            with torch.autocast("cpu", torch.bfloat16):
                loss = answer_loss(model, ids, labels, seen) / taught
            loss.backward()
            total += float(loss.detach())
        recent.append(total)
        if step % 10 == 0 or step == count:
            each = (time.monotonic() - start) / step
            log(f"specialist: step {step:4d}  loss an answer's token {np.mean(recent):.4f}  {each:.2f} s a step")
            recent = []
    return tuned


def report(name: str, model: Any, tokenizer: Any, log: Log) -> None:
    """Validation pictures answered."""
    asked = held_out("validation")
    found = answers(model, tokenizer, asked)
    by_kind = right_by_kind([one for _, one in asked], found)
    log(f"{name}: right on validation pictures: " + ", ".join(f"{k} {r}/{n}" for k, (r, n) in by_kind.items()))


def parse_arguments() -> argparse.Namespace:
    """The command line; `--help` says what each option is for."""
    parser = argparse.ArgumentParser(description="Teach the demo's base to see, on a CPU.")
    parser.add_argument("--eyes", type=Path, default=EYES, help="folder of tower and projector [examples/vision]")
    parser.add_argument("--adapter", type=Path, default=PICTURES, help="the specialist [examples/adapters/pictures]")
    parser.add_argument("--eyes-steps", type=int, default=2500, help="steps of the first stage [2500]")
    parser.add_argument("--adapter-steps", type=int, default=100, help="of the second [100]")
    parser.add_argument("--only", choices=STAGES, help="one stage, on what the one before has written [both]")
    parser.add_argument("--seed", type=int, default=0, help="seed of weights and pictures [0]")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads [1]")
    parser.add_argument("--log", type=Path, default=HERE / "logs" / "vision.log", help="[examples/logs/vision.log]")
    return parser.parse_args()


def main() -> None:
    """Both stages."""
    arguments = parse_arguments()
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(arguments.seed)
    log = Log(arguments.log)
    log(f"command: python examples/train_vision.py {' '.join(sys.argv[1:])}")
    log(f"machine: {platform.machine()} ({cpu()}), {arguments.threads} threads, no GPU used")
    log(f"python {platform.python_version()}, torch {torch.__version__}, seed {arguments.seed}")
    stages = (arguments.only,) if arguments.only else STAGES
    model, tokenizer = assemble(None if "eyes" in stages else arguments.eyes)
    model.requires_grad_(False)
    tower: Any = model.model.vision_tower

    def see(batch: Tensor) -> Tensor:
        seen: Tensor = tower(batch, output_hidden_states=True).hidden_states[model.config.vision_feature_layer]
        return seen

    if "eyes" in stages:
        train_eyes(model, tokenizer, see, arguments.eyes_steps, arguments.seed, log)
        save_eyes(model, arguments.eyes)
    nn.Module.to(model.model.language_model, torch.bfloat16)  # frozen; a step is faster
    if "specialist" in stages:
        tuned = train_specialist(model, tokenizer, see, arguments.adapter_steps, arguments.seed + 20, log)
        save_adapter(tuned, arguments.adapter)
    nn.Module.to(model, torch.bfloat16)
    report(stages[-1], model, tokenizer, log)


def cpu() -> str:
    """The processor's name, and what it has for bf16."""
    lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    about = {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in lines)}
    has = [flag for flag in ("avx512_bf16", "amx_bf16") if flag in about.get("flags", "").split()]
    return ", ".join([about.get("model name", "unknown"), *has])


def save_adapter(tuned: Any, folder: Path) -> None:
    """Writes the specialist in bf16, without peft's empty template of a card."""
    for weight in tuned.parameters():
        if weight.requires_grad:
            weight.data = weight.data.to(torch.bfloat16)
    for config in tuned.peft_config.values():
        config.base_model_name_or_path = "vision-base"
    tuned.save_pretrained(str(folder), save_embedding_layers=False)
    (folder / "README.md").unlink(missing_ok=True)


if __name__ == "__main__":
    main()
