"""The hub's metadata in front of a model card: licence, what it was merged from, languages, data, tags."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from moemerge.plan.model import Plan
from moemerge.sources import Checkpoint
from moemerge.sources.card import OTHER, Stated
from moemerge.sources.spec import HUB_ID

_NO_SLUG = re.compile(r"[^a-z0-9.]+")
_LONGEST = 96
"""Signs of a licence's name."""


def metadata(plan: Plan) -> dict[str, Any]:
    """The metadata of a plan's output, in the order in which they are written."""
    models = list(plan.models.values())
    found: dict[str, Any] = licence([model.stated for model in models])
    local = {c.spec for c in models if c.kind != "hub" and c.revision is None}
    bases = list(dict.fromkeys(name for c in models for name in _hub_ids(c) if name not in local))
    if bases:
        found |= {"base_model": bases, "base_model_relation": "merge"}
    for key, listed in (
        ("language", _union(model.stated.languages for model in models)),
        ("datasets", _union(model.stated.datasets for model in models)),
    ):
        if listed:
            found[key] = listed
    found["library_name"] = "transformers"
    found["pipeline_tag"] = plan.host.task
    found["tags"] = ["moe", "merge", "moemerge", "transformers", plan.host.model_type]
    return found


def licence(stated: Sequence[Stated]) -> dict[str, Any]:
    """The licence of all sources, or `other` with a name: of a licence that the hub has no id for, or of several.

    A name is what the hub asks for, such as `my-licence-1.0`.
    """
    known = list(dict.fromkeys((one.licence, one.own_licence, one.licence_link) for one in stated if one.licence))
    names = list(dict.fromkeys(name for name, _, _ in known if name))
    if not names:
        return {}
    if len(names) == 1 and not known[0][1]:
        return {"license": names[0]}
    slugs = [_NO_SLUG.sub("-", name.lower()).strip("-.") for name in names]
    found = {"license": OTHER, "license_name": "-and-".join(filter(None, slugs))[:_LONGEST].strip("-.") or OTHER}
    if len(names) == 1 and known[0][2]:
        found["license_link"] = known[0][2]
    return found


def _union(listed: Iterable[tuple[str, ...]]) -> list[str]:
    return list(dict.fromkeys(one for some in listed for one in some))


def _hub_ids(checkpoint: Checkpoint) -> Iterator[str]:
    """The hub models that a source is made of, an adapter's own base (by its config) among them; nothing local."""
    spec = checkpoint.spec.rpartition("+")[2] if checkpoint.kind == "adapter" else checkpoint.spec
    if checkpoint.revision is not None and HUB_ID.fullmatch(spec.partition("@")[0]):
        yield spec.partition("@")[0]
    if checkpoint.base is not None and checkpoint.adapter is not None:
        yield from _hub_ids(checkpoint.base)
        name = checkpoint.adapter["base"]
        if isinstance(name, str) and HUB_ID.fullmatch(name) and not Path(name).exists():
            yield name
