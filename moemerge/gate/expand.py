"""The specialists continue their own prompts, so that a handful of prompts gives enough tokens to fit a gate.

Six short prompts are 16 to 50 tokens, too few to whiten a width of hundreds. What a specialist writes after them is of
its own domain, costs a minute on a CPU, and asks the user for nothing. An expert without texts is the general one: its
specialist writes from the beginning of text.
"""

from __future__ import annotations

import time
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import torch

from moemerge.console import LONG, Progress, duration, few, portion
from moemerge.dense.generation import continuations, end_tokens
from moemerge.errors import GateError, Problem
from moemerge.gate.passages import FOLDS, Passage, encode_prompt
from moemerge.gate.request import DenseModels, GateRequest
from moemerge.gate.written import Written

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

AUTO_TOKENS = 3500
"""Most tokens per expert that `auto` asks for."""

ENOUGH_PER_WIDTH = 4
"""With so many tokens per dimension an expert's prompts are enough: `auto` asks for no more."""

NEW_TOKENS = 96
"""Longest continuation."""

ROWS = 40
"""Most samples in a batch."""

ROUNDS = 4
"""Rounds of generation at most: later ones make up for samples that ended early."""

TOO_LONG = 600.0
"""`auto` does not expand where it would take more seconds than this."""

PROBES = (1, 1, 9)
"""Tokens of the runs that the time is told from; the first one warms up."""

SHORTER = "`--set gate.expand=N` writes N tokens each, `off` none"
"""What makes it shorter."""


@dataclass(frozen=True)
class Expansion:
    """What the specialists wrote.

    Attributes:
        passages: by number of the expert, the prompts with their continuations.
        samples: the same as texts, by name of the expert.
        warnings: why nothing was written, where that needs a word.
    """

    passages: Mapping[int, list[Passage]] = field(default_factory=dict)
    samples: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    warnings: tuple[Problem, ...] = ()


@dataclass(frozen=True)
class _Prompt:
    ids: list[int]
    words: list[bool]
    group: int


def expand(
    request: GateRequest,
    models: DenseModels,
    tokenizer: PreTrainedTokenizerBase,
    prompt_tokens: Sequence[int],
    progress: Progress,
) -> Expansion:
    """Lets specialists write, where `request.expand` says so.

    Args:
        request: the seed, the template, and how many tokens.
        models: the specialists.
        tokenizer: not changed.
        prompt_tokens: counted tokens of each expert's prompts.
        progress: told how long it will take before it begins.
    """
    if request.expand == "off":
        return Expansion()
    wanted = min(AUTO_TOKENS, ENOUGH_PER_WIDTH * request.hidden_size) if request.expand == "auto" else request.expand
    length = min(NEW_TOKENS, request.context // 2)
    enough = ENOUGH_PER_WIDTH * request.hidden_size
    tasks: dict[int, list[_Prompt]] = {}
    for number, texts in enumerate(request.experts):
        if request.expand == "auto" and prompt_tokens[number] >= enough:
            continue
        if texts.general:
            tasks[number] = [_Prompt([beginning(tokenizer)], [False], group) for group in range(2 * FOLDS)]
            continue
        encoded = (encode_prompt(prompt, texts, tokenizer, request.template) for prompt in texts.prompts)
        prompts = [_Prompt(list(ids), list(words), group) for group, (ids, words) in enumerate(encoded)]
        prompts = [p for p in prompts if p.ids and len(p.ids) + length <= request.context]
        if prompts:
            tasks[number] = prompts
    if not tasks:
        return Expansion()
    return _write(request, models, tokenizer, tasks, wanted, length, progress)


def beginning(tokenizer: PreTrainedTokenizerBase) -> int:
    """The id of the token that stands where a text begins.

    Raises:
        GateError: the tokenizer has no such token.
    """
    start = tokenizer.bos_token_id if tokenizer.bos_token_id is not None else tokenizer.eos_token_id
    if not isinstance(start, int):
        raise GateError(
            "An expert has no prompts, and the tokenizer has no token that begins a text", hint="give it prompts"
        )
    return start


def _write(
    request: GateRequest,
    models: DenseModels,
    tokenizer: PreTrainedTokenizerBase,
    tasks: Mapping[int, list[_Prompt]],
    wanted: int,
    length: int,
    progress: Progress,
) -> Expansion:
    passages: dict[int, list[Passage]] = {}
    samples: dict[str, tuple[str, ...]] = {}
    left = 0
    """How many are to write, the next one and those of which it is not known yet; 0 until one has to."""
    from_before: list[str] = []
    for place, (number, prompts) in enumerate(tasks.items()):
        name = request.experts[number].name
        model = models.specialist(number)
        writer = _Writer(model, tokenizer, prompts, wanted, length, zlib.crc32(f"{request.seed}/{name}".encode()))
        written = Written(request.kept, model, writer.asked())
        found = written.get()
        if found is None and not left:
            left = len(tasks) - place
            progress.stage("Timing a specialist", sum(PROBES), "tokens")
            seconds = writer.estimate(progress) * left
            if request.expand == "auto" and seconds > TOO_LONG and not all(request.experts[n].general for n in tasks):
                skipped = _too_long(seconds, wanted)
                progress.note(f"{skipped.message}: the gate is fitted from the texts as they are")
                general = {n: prompts for n, prompts in tasks.items() if request.experts[n].general}
                if not general:
                    return Expansion(warnings=(skipped,))
                alone = _write(request, models, tokenizer, general, wanted, length, progress)
                return replace(alone, warnings=(skipped,))
            progress.note(
                f"Expansion: {left} specialist{'s write' if left > 1 else ' writes'} about {wanted:,} tokens each, "
                f"about {duration(seconds)}" + (f"; {SHORTER}" if seconds >= LONG else "")
            )
            progress.stage("Specialists write", wanted * left, "tokens", SHORTER)
        if found is None:
            found = writer.write(progress)
            written.put(found)
        else:
            from_before.append(f"`{name}`")
            progress.advance(wanted if left else 0)
        passages[number] = found
        samples[name] = tuple(str(tokenizer.decode(list(p.ids), skip_special_tokens=True)) for p in passages[number])
    if from_before:
        progress.note(
            f"Expansion: what {', '.join(few(from_before))} wrote in an earlier build is used again; "
            "`--no-cache` has it written anew"
        )
    return Expansion(passages, samples)


def _too_long(seconds: float, wanted: int) -> Problem:
    return Problem(
        "expansion-skipped",
        f"The specialists do not continue the prompts, as that would take about {duration(seconds)} here",
        f"`gate.expand: {wanted}` does it all the same; texts of the experts' domains as `data` need no expansion",
    )


class _Writer:
    """One specialist and its prompts."""

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        prompts: Sequence[_Prompt],
        wanted: int,
        length: int,
        seed: int,
    ) -> None:
        self._model, self._prompts, self._wanted, self._seed = model, prompts, wanted, seed
        self._length = min(length, max(16, -(-wanted // len(prompts))))
        self._ends = end_tokens(model, tokenizer)
        self._special = set(tokenizer.all_special_ids)

    def asked(self) -> dict[str, Any]:
        """All but the model and the machine that decides what `write` gives."""
        return {
            "prompts": [[prompt.ids, prompt.words, prompt.group] for prompt in self._prompts],
            "wanted": self._wanted,
            "length": self._length,
            "seed": self._seed,
            "ends": self._ends,
            "special": sorted(self._special),
        }

    def estimate(self, progress: Progress) -> float:
        """Seconds that `write` will take, from the time of a few tokens after a first one that warms up."""
        rows = -(-self._wanted // self._length)
        batches = -(-rows // ROWS)
        probe = self._rows(-(-rows // batches), 0)
        taken = []
        for tokens in PROBES:
            started = time.monotonic()
            with _seeded(self._seed, self._model.device), portion(progress, tokens, tokens) as step:
                self._generate(probe, tokens, step)
            taken.append(time.monotonic() - started)
        each = max(taken[2] - taken[1], 0.0) / (PROBES[2] - PROBES[1])
        return batches * (taken[1] + each * self._length)

    def write(self, progress: Progress) -> list[Passage]:
        """Prompts with their continuations, `wanted` new tokens in all, or fewer where samples keep ending early."""
        found: list[Passage] = []
        left, begun = self._wanted, 0
        steps = self._length * -(-self._wanted // (self._length * ROWS))
        with _seeded(self._seed, self._model.device), portion(progress, self._wanted, steps) as step:
            for _ in range(ROUNDS):
                rows = -(-left // self._length)
                batches = -(-rows // ROWS)
                for batch in range(batches):
                    prompts = self._rows(rows // batches + (batch < rows % batches), begun)
                    begun += len(prompts)
                    for prompt, new in zip(prompts, self._generate(prompts, self._length, step), strict=True):
                        kept = new[:left]
                        left -= len(kept)
                        if kept:
                            found.append(self._passage(prompt, kept))
                if left == 0:
                    break
        return found

    def _rows(self, count: int, begun: int) -> list[_Prompt]:
        return [self._prompts[(begun + row) % len(self._prompts)] for row in range(count)]

    def _passage(self, prompt: _Prompt, new: list[int]) -> Passage:
        counted = (*prompt.words, *(token not in self._special for token in new))
        return Passage((*prompt.ids, *new), counted, prompt.group)

    def _generate(self, prompts: Sequence[_Prompt], length: int, step: Callable[[], None]) -> list[list[int]]:
        """Samples one continuation a prompt at temperature 1 and top-p 0.95, each without its end token."""
        rows = continuations(
            self._model, [p.ids for p in prompts], self._ends, told=step,
            do_sample=True, temperature=1.0, top_p=0.95, top_k=0, max_new_tokens=length,
        )  # fmt: skip
        return [row[:-1] if row[-1] in self._ends else row for row in rows]


@contextmanager
def _seeded(seed: int, device: torch.device) -> Iterator[None]:
    """Seeds torch for the while and puts its state back."""
    devices = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(seed)
        yield
