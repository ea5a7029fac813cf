"""`moemerge eval`: a folder, held-out texts, and everything that can be said of the two."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from moemerge import __version__
from moemerge.console import Progress
from moemerge.errors import EvalError
from moemerge.evaluate.cache import LossCache
from moemerge.evaluate.domains import Domain, find_evaluation, read_domains
from moemerge.evaluate.extras import answers, chat_replies, read_all_questions, sample_routes, speed
from moemerge.evaluate.measures import DomainLosses, Measures, domain_account, gain_account, general_account
from moemerge.evaluate.options import PARTS, EvalOptions
from moemerge.evaluate.pictures import Eyes
from moemerge.evaluate.scorer import Scorer
from moemerge.evaluate.subjects import Compared, Mixture
from moemerge.evaluate.tasks import run_tasks
from moemerge.evaluate.verdict import verdict
from moemerge.families import language_config
from moemerge.mixture.baselines import LINEAR, Baselines
from moemerge.mixture.folder import BuiltFolder, MoeFolder, open_moe
from moemerge.mixture.losses import FEW
from moemerge.mixture.placement import Placement
from moemerge.mixture.processes import Processes
from moemerge.mixture.routers import Offloaded
from moemerge.mixture.routing import RouteCounts, routing_account
from moemerge.mixture.whole import WholeBaselines
from moemerge.mixture.windows import Scorable, encode
from moemerge.record.read import record_digest

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

CONTEXT = 2048
"""Longest window in tokens, unless the options say otherwise or the model is shorter."""
SHORTER = "`--limit N` reads fewer texts"
"""What makes losses take less time."""


class Evaluation:
    """One run. Making it opens everything that can be refused before a model is loaded.

    Raises:
        MoemergeError: the folder, the domains or their texts cannot be used.
    """

    def __init__(self, path: Path, options: EvalOptions, progress: Progress, processes: Processes) -> None:
        self.options, self.progress, self.processes = options, progress, processes
        self.folder: MoeFolder = open_moe(path, options.experts)
        asked, root = find_evaluation(self.folder, Path(options.domains) if options.domains is not None else None)
        self.questions = read_all_questions(asked.questions, root) if "questions" not in options.without else {}
        self.tokenizer: PreTrainedTokenizerBase = self.folder.tokenizer()
        self.domains: tuple[Domain, ...] = read_domains(
            asked.domains, root, self.folder.experts, options.limit, self.tokenizer, self._eyes()
        )
        self.texts = tuple(domain for domain in self.domains if domain.pictures is None)
        """The domains of texts alone."""
        context, stride = self._windows(self.folder.config, self.tokenizer)
        encoded: dict[str, Scorable] = {
            domain.name: domain.pictures or encode(domain.texts, self.tokenizer, context, stride)
            for domain in self.domains
        }
        silent = [f"`{name}`" for name, texts in encoded.items() if not sum(texts.tokens)]
        if silent:
            raise EvalError(f"no token can be predicted in the texts of {', '.join(silent)}: they are too short")
        self.placement = self._placement()
        self.baselines = Baselines(
            self.folder, self.placement, online=options.online, allow_pickle=options.allow_pickle
        )
        self.mixture = Mixture(self.folder, self.placement, processes)
        cache = LossCache(options.cache, self._setting(context, stride))
        self.scorer = Scorer(encoded, cache, progress, processes)
        self.others = {name: Compared(path, self.placement) for name, path in options.compare.items()}
        self.sums: dict[str, dict[str, Tensor]] = {domain.name: {} for domain in self.domains}
        """Sums of the documents' losses by domain and model."""
        self.unseen: dict[str, str] = {}
        """Why a dense model was not measured on pictures, by its name."""
        self.unasked: list[str] = []
        """Why there is no chat, or not of all domains."""

    def _eyes(self) -> Callable[[], Eyes] | None:
        """What reads pictures, made when there are some; None where the mixture sees nothing."""
        if language_config(self.folder.checkpoint.config) is self.folder.checkpoint.config:
            return None
        return cache(lambda: Eyes(self.folder.path, self.tokenizer))

    def _placement(self) -> Placement:
        """Where everything runs, with a dtype; the same in all processes. The base is in memory beside the mixture."""
        folder, asked = self.folder, self.options.placement
        dense = folder.parameters()[1]  # about: the base is one of the experts and the rest
        return self.processes.from_first(lambda: folder.settled(asked, self.progress.note, beside=dense))

    def _windows(self, config: Mapping[str, Any], tokenizer: PreTrainedTokenizerBase) -> tuple[int, int]:
        """Context and stride for a model.

        Raises:
            EvalError: the options ask for windows that it cannot read.
        """
        options = self.options
        limit = min(int(config.get("max_position_embeddings") or CONTEXT), tokenizer.model_max_length)
        if options.context is not None and options.context > limit:
            raise EvalError(f"`--context {options.context}` is longer than the model reads: {limit} tokens")
        context = options.context if options.context is not None else min(CONTEXT, limit)
        stride = options.stride if options.stride is not None else max(context // 2, 1)
        if context < 2:
            raise EvalError(f"`--context {context}` is too short: a token is predicted from the one before it")
        if not 1 <= stride < context:
            raise EvalError(f"`--stride {stride}` must be at least 1 and less than the context of {context} tokens")
        return context, stride

    def _setting(self, context: int, stride: int) -> str:
        """What changes every loss beside the model and the text."""
        import transformers

        placement = self.placement
        device = placement.device_map or placement.device.partition(":")[0]
        return f"{placement.dtype} {device} {torch.__version__} {transformers.__version__} {context} {stride}"

    def measure_moe(self) -> dict[str, RouteCounts]:
        """The mixture as it is, oracle-routed and with a random gate; returns its routes by domain."""
        mixture, seed, counts = self.mixture, self.options.seed, {}
        tokens = self._tokens()
        own = sum(tokens[domain.name] for domain in self.domains if domain.expert is not None)
        self.progress.stage("losses of the mixture", 2 * sum(tokens.values()) + own, "tokens", SHORTER)
        for domain in self.domains:
            name, sums = domain.name, self.sums[domain.name]
            sums["moe"], counts[name] = self.scorer.routed(name, mixture.content, mixture.model, mixture.routers)
            if domain.expert is not None:
                sums["oracle_routed"] = self._forced(name, domain.expert)
            try:
                sums["random_gate"] = self.scorer.losses(
                    name, f"{mixture.content} random {seed}", mixture.model, lambda: mixture.routers().randomised(seed)
                )
            except Offloaded as error:
                self.baselines.missing["random gate"] = error.message
        return counts

    def _forced(self, domain: str, expert: int) -> Tensor:
        mixture = self.mixture
        return self.scorer.losses(
            domain, f"{mixture.content} forced {expert}", mixture.model, lambda: mixture.routers().forced(expert)
        )

    def measure_dense(self) -> None:
        """Base, specialists and linear merge, as far as they can be had."""
        baselines = self.baselines
        models = (
            baselines.has_base + baselines.has_linear_merge + sum(map(baselines.has_specialist, self.folder.experts))
        )
        if models:
            self.progress.stage("losses of dense models", models * sum(self._tokens().values()), "tokens", SHORTER)
        if baselines.has_base:
            self._dense("base", "base", baselines.base)
        for name in self.folder.experts:
            if baselines.has_specialist(name):
                self._dense(f"specialist:{name}", name, partial(baselines.specialist, name))
        if baselines.has_linear_merge:
            self._dense("linear_merge", LINEAR, baselines.linear_merge)

    def _dense(self, key: str, source: str, load: Callable[[], Any]) -> None:
        content = self.processes.from_first(lambda: self.baselines.content(source))
        held: list[Any] = []

        once = partial(_once, held, load)
        for domain in self.texts:
            self.sums[domain.name][key] = self.scorer.losses(domain.name, content, once)
        seen = [domain for domain in self.domains if domain.pictures is not None]
        if not seen:
            return
        held.clear()  # the language model alone, which sees nothing
        whole = WholeBaselines(self.baselines, self.placement)
        if (why := whole.why_not(source)) is not None:
            self.unseen[source] = why
            return
        for domain in seen:
            load = partial(_once, held, partial(whole.load, source))
            self.sums[domain.name][key] = self.scorer.losses(domain.name, f"{content} whole", load)

    def measure_others(self) -> dict[str, dict[str, dict[str, float | None]]]:
        """The report's `compared`, by domain: each with its own tokens, so that bits per byte compare."""
        found: dict[str, dict[str, dict[str, float | None]]] = {domain.name: {} for domain in self.domains}
        for name, other in self.others.items():
            tokenizer = other.tokenizer()
            context, stride = self._windows(other.config, tokenizer)
            encoded = {domain.name: encode(domain.texts, tokenizer, context, stride) for domain in self.texts}
            total = sum(sum(texts.tokens) for texts in encoded.values())
            self.progress.stage(f"losses of {name}", total, "tokens", SHORTER)
            setting = self._setting(context, stride)
            scorer = Scorer(encoded, self.scorer.cache.under(setting), self.progress, self.processes)
            content = self.processes.from_first(other.content)
            for domain, texts in encoded.items():
                nats, tokens = float(scorer.losses(domain, content, other.model).sum()), sum(texts.tokens)
                found[domain][name] = {
                    "nats": nats / tokens if tokens else None,
                    "bits_per_byte": nats / math.log(2) / sum(texts.bytes) if sum(texts.bytes) else None,
                }
            other.release()
        return found

    def measure_beside(self) -> dict[str, Any]:
        """The parts of the report that are no losses, of the mixture and, where it is at hand, the base."""
        model, routers, names = self.mixture.model, self.mixture.routers, self.folder.experts
        base = self.baselines.base if self.baselines.has_base else None
        wanted = set(PARTS) - set(self.options.without) if self.processes.first else set()
        found: dict[str, Any] = {"samples": {}, "chat": {}, "questions": {}, "tokens_per_second": None}
        if "samples" in wanted:
            found["samples"] = sample_routes(model(), self.tokenizer, routers(), self.texts, names)
        if "chat" in wanted:
            folder = self.folder
            experts = folder.record.recipe.experts if isinstance(folder, BuiltFolder) else ()
            found["chat"], self.unasked = chat_replies(model(), self.tokenizer, self.texts, experts, self.progress)
        if "questions" in wanted and self.questions:
            found["questions"] = answers(model(), base, self.tokenizer, self.questions, self.progress)
        if "speed" in wanted:
            found["tokens_per_second"] = speed(model(), base, self.progress)
        return found

    def measure_tasks(self) -> dict[str, Any]:
        """The report's `tasks`."""
        asked, placement = self.options.tasks, self.placement
        if not asked.names or not self.processes.first:
            return {}
        self.progress.stage("tasks", len(asked.names), "tasks", "`--limit N` reads fewer examples")
        return run_tasks(
            self.folder.path, asked.names, asked.backend, asked.include, self.options.limit, placement.device,
            placement.dtype, asked.fewshot,
        )  # fmt: skip

    def _tokens(self) -> dict[str, int]:
        """Scored tokens of each domain."""
        return {name: sum(texts.tokens) for name, texts in self.scorer.encoded.items()}

    def report(self, counts: dict[str, RouteCounts], compared: Mapping[str, Any]) -> dict[str, Any]:
        """The figures; see docs/evaluation.md for their names."""
        experts, options, encoded = self.folder.experts, self.options, self.scorer.encoded
        measured = {
            domain.name: DomainLosses(
                expert=experts[domain.expert] if domain.expert is not None else None,
                tokens=torch.tensor(encoded[domain.name].tokens, dtype=torch.float64),
                bytes=sum(encoded[domain.name].bytes),
                sums=self.sums[domain.name],
            )
            for domain in self.domains
        }
        measures = Measures(measured, options.seed)
        own, layers = {domain.name: domain.expert for domain in self.domains}, self.folder.moe_layers
        routing = routing_account(counts, layers, experts, own)
        total, active = self.folder.parameters()
        config = self.folder.config
        return {
            "format": 1,
            "moemerge": __version__,
            "path": str(self.folder.path),
            "record": record_digest(self.folder.path),
            "architecture": config["model_type"],
            "dtype": self.placement.dtype,
            "device": self.placement.device_map or self.placement.device,
            "experts": list(experts),
            "experts_per_token": self.folder.experts_per_token,
            "layers": len(routing["load_by_layer"]),
            **gain_account(measures, experts),
            "general": general_account(measures, measured, routing["confusion"]),
            "domains": {
                name: {**domain_account(name, found, measures, experts), "compared": compared[name]}
                for name, found in measured.items()
            },
            "routing": routing,
            "idle_experts": len(routing["idle"]),
            "parameters": {"total": total, "active": active, "base": self.baselines.base_parameters()},
            "missing": dict(self.baselines.missing),
            "notes": self._notes(),
            "cached": self.scorer.cache.found,
        }

    def _notes(self) -> list[str]:
        few = [f"`{domain.name}` {domain.documents}" for domain in self.domains if domain.documents < FEW]
        found = []
        if few:
            found.append(f"few documents ({', '.join(few)}): with fewer than {FEW} per domain the intervals are rough")
        found += [f"domain `{domain.name}`: {said.message}" for domain in self.domains for said in domain.warnings]
        found += [
            f"questions `{name}`: {said.message}" for name, set_ in self.questions.items() for said in set_.warnings
        ]
        found += self.unasked
        found += [f"no loss on pictures of {_named(name)}: {why}" for name, why in self.unseen.items()]
        changed = self.baselines.other_config()
        if changed:
            found.append(f"the base's `config.json` is not the one that was built from: {'; '.join(changed)}")
        strangers = self.baselines.strangers()
        if strangers:
            listed = ", ".join(f"`{name}`" for name in strangers)
            found.append(
                f"the folder's FFN of {listed} is not that of its source: one of the two changed since the build, and "
                "the source was measured as it is now; `moemerge verify` says which tensors differ"
            )
        return found


def _named(source: str) -> str:
    return f"the {source}" if source in ("base", LINEAR) else f"the specialist of `{source}`"


def _once(held: list[Any], load: Callable[[], Any]) -> Any:
    """What is held, or what is loaded and held from now on."""
    held.extend([] if held else [load()])
    return held[0]


def evaluate_folder(path: Path, options: EvalOptions, progress: Progress, processes: Processes) -> dict[str, Any]:
    """Measures a mixture; see docs/evaluation.md for the report.

    Raises:
        MoemergeError: anything that the user can mend.
    """
    run = Evaluation(path, options, progress, processes)
    counts = run.measure_moe()
    beside = run.measure_beside()
    run.mixture.release()
    run.measure_dense()
    compared = run.measure_others()
    report = {**run.report(counts, compared), **beside, "tasks": run.measure_tasks()}
    report["verdict"] = verdict(report)
    return report
