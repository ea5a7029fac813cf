"""vLLM on the CPU."""

from __future__ import annotations

import gc
from typing import Any

from answers import answer_all
from vllm import LLM, SamplingParams
from vllm.distributed.parallel_state import cleanup_dist_env_and_memory


def answer(asked: dict[str, Any]) -> dict[str, Any]:
    """In fp32, without a compiler."""
    model = None
    try:
        model = LLM(asked["model"], dtype="float32", max_model_len=64, max_num_batched_tokens=64, max_num_seqs=1,
                    max_logprobs=asked["vocabulary"], enforce_eager=True, enable_prefix_caching=False,
                    kv_cache_memory_bytes=1 << 26, language_model_only=True)  # fmt: skip
        every = SamplingParams(max_tokens=1, temperature=0.0, ignore_eos=True, logprobs=asked["vocabulary"])
        rows = [{"prompt_token_ids": asked["tokens"][:length]} for length in asked["lengths"]]
        said = model.generate(rows, every, use_tqdm=False)
        found = [one.outputs[0].logprobs[0] for one in said]
        tokenizer = model.get_tokenizer()
        return {
            "logprobs": [[row[token].logprob for token in range(asked["vocabulary"])] for row in found],
            "ids": [tokenizer.encode(text) for text in asked["texts"]],
        }
    except Exception as error:  # without its frames, which hold what was made of the engine: it would end the next one
        raise error.with_traceback(None) from None
    finally:
        del model
        gc.collect()
        cleanup_dist_env_and_memory()


if __name__ == "__main__":
    gc.freeze()  # vLLM collects nine times a model, each time all that it has imported
    answer_all(answer)
