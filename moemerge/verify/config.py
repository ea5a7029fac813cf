"""`config.json` of the mixture, derived whole: from the host's row, the record and the base's config."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from moemerge.errors import Difference
from moemerge.record.schema import Record
from moemerge.verify.dense import REPEATED, Dense
from moemerge.verify.expected import always_on_width
from moemerge.verify.host_row import FromBase, HostRow
from moemerge.verify.wrapped import host_of

NAME = "config.json"
_DTYPES: Mapping[str, str] = {"F32": "float32", "BF16": "bfloat16", "F16": "float16"}
_UNWANTED: Mapping[str, str] = {
    "auto_map": "it asks for remote code",
    "quantization_config": "the weights are not quantised",
    "transformers_weights": "transformers would read the weights from the file that it names",
    "_attn_implementation": "it has transformers compute attention in another way, which may be code from the hub",
    "is_causal": "it says whether a token sees those after it",
    "configuration_files": "transformers would read the config from the files that it names",
}
"""Why some keys are dangerous; any other that no row has is unwanted too."""

_FIXED: Mapping[str, Any] = {"output_router_logits": False, "router_aux_loss_coef": 0.001, "use_cache": True}
"""Keys of every host that have one value in every folder."""


def _rope_scaling(dense: Dense) -> dict[str, Any] | None:
    """What transformers 4 reads beside `rope_theta`."""
    scaling = {key: value for key, value in dense.rope.items() if key != "rope_theta"}
    return None if scaling == {"rope_type": "default"} else scaling


_FROM_BASE: Mapping[str, FromBase] = {
    "rope_parameters": lambda dense: dict(dense.rope),
    "rope_theta": lambda dense: dense.rope["rope_theta"],
    "rope_scaling": _rope_scaling,
}
"""Keys of every host that follow from the base, beside those that repeat the base's."""


@dataclass(frozen=True, slots=True)
class Field:
    """A key that must have one value.

    Attributes:
        key: its name.
        value: what it must be.
        because: who says so: `the base has`, `the recipe asks for`, ...
    """

    key: str
    value: Any
    because: str


def check_config(
    config: Mapping[str, Any], record: Record, base: Mapping[str, Any] | None, unsure: Collection[str] = ()
) -> list[Difference]:
    """Compares every key with what it must be; a key that no build writes is a difference too.

    Args:
        config: the folder's.
        record: what was asked.
        base: the base's raw config, or None where it is not at hand: then keys that follow from it may have any value.
        unsure: further keys that may have any value.
    """
    host = host_of(record)
    fields = {field.key: field for field in (*_fixed(host, within=record.wrapper is not None), *_asked(host, record))}
    own = (*host.repeated, *host.from_base, *(host.kinds or ())[:1], *(host.widths if host.wide else ()))
    from_base = {*REPEATED, *_FROM_BASE, *own} - {*host.lacks}
    if base is not None:
        derived = _from_base(host, Dense.of(base), record)
        fields |= {field.key: field for field in derived if field.key not in unsure}
    found = []
    for key in config:
        if key not in fields and key not in from_base:
            why = _UNWANTED.get(key, f"a `{host.model_type}` that moemerge builds has no such key")
            found.append(f"{key} does not belong in it: {why}")
    for field in fields.values():
        if field.key in config:
            found += _compare(field.key, config[field.key], field.value, field.because)
        else:
            found.append(f"{field.key} is missing, {field.because} {_show(field.value)}")
    found += [f"{key} is missing" for key in sorted(from_base - fields.keys() - config.keys())]
    return [Difference(NAME, message) for message in found]


def _fixed(host: HostRow, *, within: bool) -> Iterator[Field]:
    """A wrapper names its own class."""
    because = f"`{host.model_type}` needs"
    named = {} if within else {"architectures": [host.class_name]}
    for key, value in {**_FIXED, **host.fixed, **named}.items():
        yield Field(key, value, because)


def _asked(host: HostRow, record: Record) -> Iterator[Field]:
    yield Field("model_type", host.model_type, "the record says")
    yield Field("dtype", _DTYPES[record.dtype], "the record says")
    yield Field("num_experts_per_tok", record.recipe.experts_per_token, "the recipe asks for")
    for key in host.tops:
        yield Field(key, record.recipe.experts_per_token, "the recipe asks for")
    for key in host.counts:
        yield Field(key, len(record.experts), "the recipe has")
    for key in () if host.wide else host.widths:
        yield Field(key, record.width, "the experts have")
    for key, derive in host.dense_layers.items():
        yield Field(key, derive(record.dense_layers), "the record says")
    if host.always_on is not None and host.always_on.width is not None:
        yield Field(host.always_on.width, always_on_width(record, host.always_on), "the shared expert has")
    if host.always_on is not None and host.always_on.count is not None:
        yield Field(host.always_on.count, len(record.recipe.shared_experts), "the recipe has")
    if host.silenced is not None:
        yield Field(host.silenced.width, min(host.silenced.most, record.width), "the silent FFN has")


def _from_base(host: HostRow, dense: Dense, record: Record) -> Iterator[Field]:
    for key, value in dense.fields.items():
        yield Field(key, value, "the base has")
    for key in host.repeated:
        yield Field(key, dense.values[key], "the base has")
    for key in host.widths if host.wide else ():
        yield Field(key, record.width * dense.wide, "the experts have")
    for key, derive in {**_FROM_BASE, **host.from_base}.items():
        if key in host.lacks:
            continue
        yield Field(key, derive(dense), "the base has")
    if host.kinds is not None:
        key, ffn, routing = host.kinds
        kept = record.dense_layers
        kinds = [
            routing if k == ffn and n not in kept else k
            for n, k in enumerate(dense.values.get(key) or [ffn] * dense.layers)
        ]
        yield Field(key, kinds, "the base and the record say")


def _compare(key: str, value: Any, wanted: Any, because: str) -> Iterator[str]:
    """What differs, place by place in a map."""
    if isinstance(value, Mapping) and isinstance(wanted, Mapping):
        for inner in (*wanted, *(inner for inner in value if inner not in wanted)):
            if inner in value:
                yield from _compare(f"{key}.{inner}", value[inner], wanted.get(inner), because)
            else:
                yield f"{key}.{inner} is missing, {because} {_show(wanted[inner])}"
    elif not _same(value, wanted):
        yield f"{key} is {_show(value)}, {because} {_show(wanted)}"


def _same(one: Any, other: Any) -> bool:
    """Equal, and of a kind: true is not 1."""
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(_same, one, other))
    return bool(one == other) and isinstance(one, bool) == isinstance(other, bool)


def _show(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)
