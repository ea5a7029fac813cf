"""What models look like: dense families, hosts that they go into, and how. One small file a family, found by itself."""

from __future__ import annotations

from collections.abc import Container, Mapping
from dataclasses import replace
from typing import Any

from moemerge.errors import Problem
from moemerge.families.anatomy import Anatomy
from moemerge.families.architecture import COMMON, DenseConfig
from moemerge.families.choice import choose_host, hosts_of, why_host
from moemerge.families.dense_family import DenseFamily, Group, Projection
from moemerge.families.host import Constant, Host, Made
from moemerge.families.refusal import Refusal
from moemerge.families.registry import (
    DENSE_FAMILIES,
    HOSTS,
    REFUSALS,
    REFUSED,
    TRANSLATIONS,
    WRAPPED,
    WRAPPERS,
)
from moemerge.families.routing import Routing
from moemerge.families.translation import Part, Translation
from moemerge.families.wrapper import Wrapper


def family_problem(model_type: object) -> Problem:
    """The refusal of a `model_type` that is not a known dense family."""
    refusal = REFUSED.get(str(model_type))
    why = refusal.why if refusal is not None else "moemerge does not know it"
    hint = refusal.instead if refusal is not None else "`moemerge families` lists those that do"
    code = refusal.code if refusal is not None else "no-host"
    return Problem(code, f"model type `{model_type}` does not become a mixture of experts: {why}", hint)


def anatomy_of(model: Any) -> Anatomy:
    """Where the parts of a model of transformers lie; the usual places where its family is not one of ours."""
    family = _row(model)
    return family.anatomy if family is not None else Anatomy()


def routing_of(model: Any) -> Routing:
    """The rule of a mixture's routers: its host's, with what its config says where moemerge did not write it."""
    family = _row(model)
    rule = family.routing if isinstance(family, Host) else Routing()
    config = _language_of(getattr(model, "config", None))
    return replace(
        rule,
        divided=bool(getattr(config, "norm_topk_prob", rule.divided)),
        factor=float(getattr(config, "routed_scaling_factor", None) or rule.factor),
    )


def auto_class_of(config: Mapping[str, Any]) -> str:
    """The class of transformers that loads a mixture with such a `config.json`."""
    host = host_of(config)
    return host.auto_class if host is not None else "AutoModelForCausalLM"


def host_of(config: Mapping[str, Any]) -> Host | None:
    """The host of a mixture with such a `config.json`, as it lies within a wrapper; None where it is none of ours."""
    wrapper = WRAPPED.get(str(config.get("model_type")))
    language = language_config(config)
    host = _host(language.get("model_type"), language)
    return host if wrapper is None or host is None else wrapper.around(host)


def routed_layers(names: Container[str], config: Mapping[str, Any], host: Host) -> tuple[int, ...]:
    """The numbers of a mixture's layers that have a router.

    Args:
        names: of its tensors on disk.
        config: its language model's.
        host: its class.
    """
    return tuple(layer for layer in range(config["num_hidden_layers"]) if host.gate.format(layer=layer) in names)


def own_name(config: Mapping[str, Any], stored: str) -> str | None:
    """What a mixture's language model itself calls a tensor on disk; None for what is a wrapper's own."""
    wrapper = WRAPPED.get(str(config.get("model_type")))
    return stored if wrapper is None else wrapper.name(wrapper.in_memory(stored))


def language_config(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """What a `config.json` says of the language model: a wrapper's has a map of its own for that."""
    wrapper = WRAPPED.get(str(config.get("model_type")))
    inner = config.get(wrapper.key) if wrapper is not None else None
    return inner if isinstance(inner, Mapping) else config


def config_by_itself(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """The config of a mixture's language model, as one by itself would have it that computes the same."""
    wrapper = WRAPPED.get(str(config.get("model_type")))
    language = language_config(config)
    host = _host(language.get("model_type"), language)
    return language if wrapper is None or host is None else wrapper.by_itself(config, host)


def _language_of(config: Any) -> Any:
    """What `language_config` gives of a config object of transformers."""
    wrapper = WRAPPED.get(str(getattr(config, "model_type", None)))
    return config if wrapper is None else getattr(config, wrapper.key, config)


def _row(model: Any) -> DenseFamily | Host | None:
    config = getattr(model, "config", None)
    kind = getattr(config, "model_type", None)
    if not isinstance(kind, str):
        return None
    if kind in WRAPPED:
        inner = getattr(config, WRAPPED[kind].key, None)
        host = _host(getattr(inner, "model_type", None), vars(inner)) if inner is not None else None
        return None if host is None else WRAPPED[kind].around(host)
    return _family_or_host(kind, vars(config))


def _host(kind: object, values: Mapping[str, Any]) -> Host | None:
    found = _family_or_host(kind, values)
    return found if isinstance(found, Host) else None


def _family_or_host(kind: object, values: Mapping[str, Any]) -> DenseFamily | Host | None:
    """By a `model_type`, which a dense family may share with its host, and a config."""
    family, host = DENSE_FAMILIES.get(str(kind)), HOSTS.get(str(kind))
    if family is None or host is None:
        return family or host
    return family if family.is_dense({**COMMON, **family.defaults, **family.read(values)}) else host


__all__ = [
    "DENSE_FAMILIES",
    "HOSTS",
    "REFUSALS",
    "REFUSED",
    "TRANSLATIONS",
    "WRAPPED",
    "WRAPPERS",
    "Anatomy",
    "Constant",
    "DenseConfig",
    "DenseFamily",
    "Group",
    "Host",
    "Made",
    "Part",
    "Projection",
    "Refusal",
    "Routing",
    "Translation",
    "Wrapper",
    "anatomy_of",
    "auto_class_of",
    "choose_host",
    "config_by_itself",
    "family_problem",
    "host_of",
    "hosts_of",
    "language_config",
    "own_name",
    "routed_layers",
    "routing_of",
    "why_host",
]
