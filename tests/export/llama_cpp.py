"""What llama.cpp computes, in a process of its own: reads what is asked from stdin as JSON, prints JSON.

Asked: a list of maps with `gguf` (a path), `rows` (prompts as ids), `texts`, `vocabulary` (its size), `plain` (a token
that is a letter). Said of each: `logprobs`, for each row those of the next token by id; `ids` of each text.
"""

from __future__ import annotations

import json
import sys
import urllib.request
from typing import Any


def main() -> None:
    """Answers, with keys and values in fp32, as the weights are."""
    import xllamacpp as llama

    print(json.dumps([answer(llama, asked) for asked in json.load(sys.stdin)]))


def answer(llama: Any, asked: dict[str, Any]) -> dict[str, Any]:
    """What is said of one file."""
    settings: Any = llama.CommonParams()
    settings.model.path = asked["gguf"]
    settings.n_ctx, settings.n_parallel, settings.warmup, settings.verbosity = 512, 1, False, 0
    settings.cpuparams.n_threads = settings.cpuparams_batch.n_threads = 1  # tiny tensors: threads only wait
    settings.use_jinja = False
    settings.cache_type_k = settings.cache_type_v = llama.ggml_type.GGML_TYPE_F32
    settings.flash_attn_type = llama.llama_flash_attn_type.LLAMA_FLASH_ATTN_TYPE_DISABLED
    server: Any = llama.Server(settings)

    def post(path: str, body: dict[str, Any]) -> Any:
        data = json.dumps(body).encode()
        request = urllib.request.Request(server.listening_address + path, data, {"Content-Type": "application/json"})
        return json.load(urllib.request.urlopen(request))

    # a server that ends before its loop has begun is waited for without end: an answer shows that it has
    post("/completion", {"prompt": [asked["plain"]], "n_predict": 1})
    logprobs = []
    for row in asked["rows"]:
        # a token that is a part of a character would have no probabilities: a plain one is drawn, and they stay as
        # they were
        body = {"prompt": row, "n_predict": 1, "n_probs": asked["vocabulary"], "cache_prompt": False,
                "temperature": 0.0, "logit_bias": [[asked["plain"], 1000.0]]}  # fmt: skip
        drawn = post("/completion", body)["completion_probabilities"][0]
        logprobs.append({token["id"]: token["logprob"] for token in drawn["top_logprobs"]})
    texts = ({"content": text, "add_special": True, "parse_special": True} for text in asked["texts"])
    return {"logprobs": logprobs, "ids": [post("/tokenize", text)["tokens"] for text in texts]}


if __name__ == "__main__":
    main()
