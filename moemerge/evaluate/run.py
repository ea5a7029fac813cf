"""`moemerge eval`: a folder, held-out texts, and everything that can be said of the two."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from moemerge import __version__
from moemerge.console import Progress
from moemerge.errors import EvalError
from moemerge.evaluate.baselines import LINEAR, Baselines
from moemerge.evaluate.cache import LossCache, cache_folder
from moemerge.evaluate.content import checkpoint_content
from moemerge.evaluate.domains import Domain, find_evaluation, read_domains
from moemerge.evaluate.folder import MoeFolder, Placement, open_moe
from moemerge.evaluate.measures import DomainLosses, Measures, domain_account, gain_account
from moemerge.evaluate.processes import Processes
from moemerge.evaluate.routers import Routers, find_routers
from moemerge.evaluate.routing import RouteCounts, routing_account
from moemerge.evaluate.scorer import Scorer
from moemerge.evaluate.verdict import verdict
from moemerge.evaluate.windows import encode

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

CONTEXT = 2048
"""Longest window in tokens, unless the options say otherwise or the model is shorter."""
FEW = 30
"""Documents of a domain below which its intervals are said to be rough."""


@dataclass(frozen=True)
class EvalOptions:
    """What is measured, and how.

    Attributes:
        domains: a YAML file of texts by domain; the folder's own recipe when None.
        experts: names of the experts, for a folder that moemerge did not make.
        limit: at most so many documents a domain.
        context: longest window in tokens.
        stride: tokens between the beginnings of a long document's windows; half the context when None.
        placement: dtype, device, device map, offload.
        online: whether absent sources may be downloaded.
        cache: where losses are kept; None keeps none.
        seed: of the bootstrap and the random gate.
    """

    domains: Path | None = None
    experts: tuple[str, ...] = ()
    limit: int | None = None
    context: int | None = None
    stride: int | None = None
    placement: Placement = field(default_factory=Placement)
    online: bool = False
    cache: Path | None = field(default_factory=cache_folder)
    seed: int = 0


class Mixture:
    """The folder's model, loaded when it is first needed."""

    def __init__(self, folder: MoeFolder, placement: Placement, processes: Processes) -> None:
        self.folder, self._placement, self._processes = folder, placement, processes
        self._model: Any = None
        self._routers: Routers | None = None

    def model(self) -> Any:
        """The model."""
        if self._model is None:
            self._model = self.folder.load(self._placement)
            self._routers = find_routers(self._model)
        return self._model

    def routers(self) -> Routers:
        """Its routers."""
        self.model()
        assert self._routers is not None
        return self._routers

    @cached_property
    def content(self) -> str:
        """Its content digest, the same in all processes."""
        return self._processes.agreed(checkpoint_content(self.folder.checkpoint) if self._processes.first else "")

    def release(self) -> None:
        """Lets its memory go."""
        self._model = self._routers = None


class Evaluation:
    """One run. Making it opens everything that can be refused before a model is loaded.

    Raises:
        MoemergeError: the folder, the domains or their texts cannot be used.
    """

    def __init__(self, path: Path, options: EvalOptions, progress: Progress, processes: Processes) -> None:
        self.options, self.progress, self.processes = options, progress, processes
        self.folder: MoeFolder = open_moe(path, options.experts)
        asked, root = find_evaluation(self.folder, options.domains)
        self.domains: tuple[Domain, ...] = read_domains(asked.domains, root, self.folder.experts, options.limit)
        self.tokenizer: PreTrainedTokenizerBase = self.folder.tokenizer()
        context, stride = self._context()
        encoded = {domain.name: encode(domain.texts, self.tokenizer, context, stride) for domain in self.domains}
        silent = [f"`{name}`" for name, texts in encoded.items() if not sum(texts.tokens)]
        if silent:
            raise EvalError(f"no token can be predicted in the texts of {', '.join(silent)}: they are too short")
        self.baselines = Baselines(self.folder, options.placement, online=options.online)
        self.mixture = Mixture(self.folder, options.placement, processes)
        cache = LossCache(options.cache, self._setting(context, stride))
        self.scorer = Scorer(encoded, cache, progress, processes)
        self.sums: dict[str, dict[str, Tensor]] = {domain.name: {} for domain in self.domains}
        """Sums of the documents' losses by domain and model."""

    def _context(self) -> tuple[int, int]:
        options, config = self.options, self.folder.checkpoint.config
        limit = min(int(config.get("max_position_embeddings") or CONTEXT), self.tokenizer.model_max_length)
        if options.context is not None and options.context > limit:
            raise EvalError(f"`--context {options.context}` is longer than the model reads: {limit} tokens")
        context = options.context or min(CONTEXT, limit)
        stride = options.stride if options.stride is not None else max(context // 2, 1)
        if context < 2:
            raise EvalError(f"`--context {context}` is too short: a token is predicted from the one before it")
        if not 1 <= stride < context:
            raise EvalError(f"`--stride {stride}` must be at least 1 and less than the context of {context} tokens")
        return context, stride

    def _setting(self, context: int, stride: int) -> str:
        """What changes every loss beside the model and the text."""
        import transformers

        placement = self.options.placement
        device = placement.device_map or placement.device.partition(":")[0]
        return f"{placement.dtype} {device} {torch.__version__} {transformers.__version__} {context} {stride}"

    def measure_moe(self) -> dict[str, RouteCounts]:
        """The mixture as it is, oracle-routed and with a random gate; returns its routes by domain."""
        mixture, seed, counts = self.mixture, self.options.seed, {}
        for domain in self.domains:
            name, sums = domain.name, self.sums[domain.name]
            sums["moe"], counts[name] = self.scorer.routed(name, mixture.content, mixture.model, mixture.routers)
            if domain.expert is not None:
                sums["oracle_routed"] = self._forced(name, domain.expert)
            sums["random_gate"] = self.scorer.losses(
                name, f"{mixture.content} random {seed}", mixture.model, lambda: mixture.routers().randomised(seed)
            )
        return counts

    def _forced(self, domain: str, expert: int) -> Tensor:
        mixture = self.mixture
        return self.scorer.losses(
            domain, f"{mixture.content} forced {expert}", mixture.model, lambda: mixture.routers().forced(expert)
        )

    def measure_dense(self) -> None:
        """Base, specialists and linear merge, as far as they can be had."""
        baselines = self.baselines
        if baselines.has_base:
            self._dense("base", "base", baselines.base)
        for name in self.folder.experts:
            if baselines.has_specialist(name):
                self._dense(f"specialist:{name}", name, lambda name=name: baselines.specialist(name))  # type: ignore[misc]
        if baselines.has_linear_merge:
            self._dense("linear_merge", LINEAR, baselines.linear_merge)

    def _dense(self, key: str, source: str, load: Callable[[], Any]) -> None:
        content = self.processes.agreed(self.baselines.content(source) if self.processes.first else "")
        held: list[Any] = []

        def once() -> Any:
            held.extend([] if held else [load()])
            return held[0]

        for domain in self.domains:
            self.sums[domain.name][key] = self.scorer.losses(domain.name, content, once)

    def work(self) -> int:
        """Tokens that all losses together score."""
        tokens = {name: sum(texts.tokens) for name, texts in self.scorer.encoded.items()}
        baselines = self.baselines
        dense = baselines.has_base + baselines.has_linear_merge
        dense += sum(baselines.has_specialist(name) for name in self.folder.experts)
        own = sum(tokens[domain.name] for domain in self.domains if domain.expert is not None)
        return sum(tokens.values()) * (2 + dense) + own

    def report(self, counts: dict[str, RouteCounts]) -> dict[str, Any]:
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
        routing = routing_account(counts, experts, {domain.name: domain.expert for domain in self.domains})
        total, active = self.folder.parameters()
        config = self.folder.checkpoint.config
        return {
            "format": 1,
            "moemerge": __version__,
            "path": str(self.folder.path),
            "architecture": config["model_type"],
            "dtype": options.placement.dtype if options.placement.dtype != "auto" else str(config.get("dtype")),
            "device": options.placement.device_map or options.placement.device,
            "experts": list(experts),
            "experts_per_token": self.folder.experts_per_token,
            "layers": len(routing["load_by_layer"]),
            **gain_account(measures, experts),
            "domains": {name: domain_account(name, found, measures, experts) for name, found in measured.items()},
            "routing": routing,
            "idle_experts": len(routing["idle"]),
            "parameters": {"total": total, "active": active, "base": self.baselines.base_parameters()},
            "missing": dict(self.baselines.missing),
            "notes": self._notes(),
            "cached": self.scorer.cache.found,
        }

    def _notes(self) -> list[str]:
        found = [
            f"domain `{domain.name}` has {len(domain.texts)} documents: fewer than {FEW}, so its intervals are rough"
            for domain in self.domains
            if len(domain.texts) < FEW
        ]
        strangers = self.baselines.strangers()
        if strangers:
            listed = ", ".join(f"`{name}`" for name in strangers)
            found.append(
                f"the folder's FFN of {listed} is not that of its source: one of the two changed since the build, and "
                "the source was measured as it is now; `moemerge verify` says which tensors differ"
            )
        return found


def evaluate_folder(path: Path, options: EvalOptions, progress: Progress, processes: Processes) -> dict[str, Any]:
    """Measures a mixture; see docs/evaluation.md for the report.

    Raises:
        MoemergeError: anything that the user can mend.
    """
    run = Evaluation(path, options, progress, processes)
    progress.stage("losses", run.work(), "tokens")
    counts = run.measure_moe()
    run.measure_dense()
    report = run.report(counts)
    report["verdict"] = verdict(report)
    return report
