"""A tiny model that has learnt a few texts by heart, for tests of what a model says."""

from __future__ import annotations

import json
from pathlib import Path

import torch

from tests.tiny import tiny_config

SPECIAL = ("<pad>", "<s>", "</s>", "<unk>", "<|user|>", "<|bot|>", "<|end|>")
LEARNT = (
    "Q:ab\nS: so\nA: 1,200 Cats.\nQ:no\nS:",
    "Q:cde\nS: hm, hm\nA: 7\nQ:no\nS: no",
    "Q:f\nS: never</s>",
    "<|user|>hi<|end|><|bot|>yo ho<|end|><|user|>hi<|end|>",
)
TEMPLATE = (
    "{% for m in messages %}{{ '<|user|>' if m.role == 'user' else '<|bot|>' }}{{ m.content }}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|bot|>{% endif %}"
)


def write_letters(folder: Path) -> None:
    """A tokenizer of single characters and a few special tokens, with a chat template."""
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers

    words = [*SPECIAL, "\n", *map(chr, range(32, 127))]
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]"), "isolated")
    tokenizer.decoder = decoders.Fuse()
    tokenizer.add_special_tokens(list(SPECIAL))
    tokenizer.save(str(folder / "tokenizer.json"))
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast", "bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>",
        "unk_token": "<unk>", "padding_side": "right", "chat_template": TEMPLATE,
    }  # fmt: skip
    (folder / "tokenizer_config.json").write_text(json.dumps(config), encoding="utf-8")


def make_talker(folder: Path) -> Path:
    """Trains and saves a dense model that has learnt LEARNT by heart; returns `folder`."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    write_letters(folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(tiny_config("llama", max_position_embeddings=96))
    rows = [tokenizer(text)["input_ids"] for text in LEARNT]
    width = max(map(len, rows))
    ids = torch.tensor([row + [0] * (width - len(row)) for row in rows])
    labels = torch.tensor([row + [-100] * (width - len(row)) for row in rows])
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3)
    for _ in range(800):
        loss = model(input_ids=ids, labels=labels, attention_mask=(labels >= 0).long()).loss
        if loss.item() < 0.04:  # 0.025 at best: the first letters of the questions cannot be told beforehand
            break
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    model.generation_config.eos_token_id = 2
    model.save_pretrained(folder)
    return folder
