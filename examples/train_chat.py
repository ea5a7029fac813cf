"""Train a specialist that chats: a full fine-tune of the demo's base whose tokenizer has two tokens more.

    python examples/train_chat.py --tokens 20000

Its turns begin with `<|turn|>` and end with `<|end|>`, tokens that the base does not have; each begins with the rows of
the base's own `<|im_start|>` and `<|im_end|>` and is trained on. The texts are worked problems of `math_templates/` as
conversations. `recipes/chat.yaml` makes an expert of it beside two of the demo's.
"""

import argparse
import os
import random
from pathlib import Path

import torch
from jinja2 import Template
from torch import nn

from math_problems import Family, templates
from train_specialists import HERE, ROW_TOKENS, Log, load_base, train

TOKENS = {"<|turn|>": "<|im_start|>", "<|end|>": "<|im_end|>"}
"""The added tokens, and those of the base whose rows they begin with."""
TEMPLATE = (
    "{% for message in messages %}<|turn|>{{ message['role'] }}\n{{ message['content'] }}<|end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|turn|>assistant\n{% endif %}"
)


def conversations(family: Family, count: int, seed: int) -> list[str]:
    """Questions with short replies, as the chat template writes them."""
    rng, pool = random.Random(seed), templates(family)
    rendered = Template(TEMPLATE, trim_blocks=True, lstrip_blocks=True)  # as transformers renders it
    found = []
    for index in range(count):
        problem = pool[index % len(pool)](rng)
        reply = f"{problem.steps[-1]} The answer is {problem.answer}."
        turns = [{"role": "user", "content": problem.question}, {"role": "assistant", "content": reply}]
        found.append(rendered.render(messages=turns))
    return found


def main() -> None:
    """From the base to a checkpoint with two rows more."""
    parser = argparse.ArgumentParser(description="Train a specialist that chats with tokens of its own.")
    parser.add_argument("--output", type=Path, default=HERE / "full" / "chat", help="folder of the checkpoint")
    parser.add_argument("--tokens", type=int, default=20_000, help="training tokens [20000]")
    parser.add_argument("--seed", type=int, default=0, help="seed of the problems and their order [0]")
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="CPU threads [all cores]")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(arguments.seed)
    log = Log(arguments.output.with_suffix(".log"))
    model, tokenizer = load_base()
    tokenizer.add_special_tokens({"additional_special_tokens": list(TOKENS)}, replace_extra_special_tokens=False)
    tokenizer.eos_token, tokenizer.chat_template = "<|end|>", TEMPLATE
    model.resize_token_embeddings(len(tokenizer), mean_resizing=False)  # the head is tied to it
    embedding = model.get_input_embeddings()
    assert isinstance(embedding, nn.Embedding)
    rows = embedding.weight.data
    for token, like in TOKENS.items():
        rows[tokenizer.convert_tokens_to_ids(token)] = rows[tokenizer.convert_tokens_to_ids(like)]
    texts = conversations("train", 2000, arguments.seed)
    encoded = [row[:ROW_TOKENS] for row in tokenizer(texts)["input_ids"]]
    train(model, encoded, domain="math", full=True, tokens=arguments.tokens, minutes=None, seed=arguments.seed, log=log)
    end = tokenizer.convert_tokens_to_ids("<|end|>")
    model.config.eos_token_id = model.generation_config.eos_token_id = end
    nn.Module.to(model, torch.bfloat16)
    model.save_pretrained(arguments.output)
    tokenizer.save_pretrained(arguments.output)


if __name__ == "__main__":
    main()
