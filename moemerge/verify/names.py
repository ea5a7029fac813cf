"""Names of tensors: which of a dense model's nobody reads, and what a folder's become in transformers' memory."""

from __future__ import annotations

import re
from collections.abc import Mapping

from moemerge.verify.host_row import HostRow, Shape

_RECOMPUTED = re.compile(r".*rotary_emb\.(inv_freq|cos_cached|sin_cached)")


def is_recomputed(name: str) -> bool:
    """Whether it is one of the rope buffers that old checkpoints store and nothing reads."""
    return _RECOMPUTED.fullmatch(name) is not None


def in_memory(on_disk: Mapping[str, Shape], host: HostRow) -> dict[str, Shape]:
    """Shapes by the names that transformers' class has in memory, where the experts are fused.

    Args:
        on_disk: shapes by the folder's names, in either layout.
        host: the row of the class.
    """
    matrices = [_pattern(name) for name in host.expert or ()]
    in_class = host.fused_in_memory or host.fused
    alone = {host.router: host.router_in_memory or host.router, **dict(zip(host.fused, in_class, strict=True))}
    if host.correction is not None:
        alone[host.correction.name] = host.correction.in_memory or host.correction.name
    renamed = [(_pattern(disk), memory) for disk, memory in alone.items()]
    result: dict[str, Shape] = {}
    layers: dict[int, dict[tuple[int, int], Shape]] = {}
    for name, shape in on_disk.items():
        other = next((memory.format(**f.groupdict()) for disk, memory in renamed if (f := disk.fullmatch(name))), None)
        if other is not None:
            turned = host.transposed and len(shape) == 3  # which only the experts have
            result[other] = (shape[0], shape[2], shape[1]) if turned else shape
            continue
        fits = ((kind, found) for kind, pattern in enumerate(matrices) if (found := pattern.fullmatch(name)))
        kind, found = next(fits, (0, None))
        if found is None:
            result[host.in_memory(name)] = shape
        else:
            layers.setdefault(int(found["layer"]), {})[int(found["expert"]), kind] = shape
    for layer, experts in layers.items():
        gate_up, down = (memory.format(layer=layer) for memory in in_class)
        result |= _fuse((gate_up, down), experts, len(matrices))
    return result


def _pattern(template: str) -> re.Pattern[str]:
    """Matches the names that a template with `{layer}` and `{expert}` gives."""
    return re.compile(re.sub(r"\\{(\w+)\\}", r"(?P<\1>\\d+)", re.escape(template)))


def _fuse(names: tuple[str, str], experts: Mapping[tuple[int, int], Shape], kinds: int) -> dict[str, Shape]:
    """Stacks the matrices of every expert (the last kind is its down), unless one of them is missing or has another
    shape."""
    count = 1 + max(expert for expert, _ in experts)
    into = {experts.get((expert, kind)) for expert in range(count) for kind in range(kinds - 1)}
    out = {experts.get((expert, kinds - 1)) for expert in range(count)}
    fused: dict[str, Shape] = {}
    if len(into) == 1 and (shape := into.pop()):
        fused[names[0]] = (count, (kinds - 1) * shape[0], *shape[1:])
    if len(out) == 1 and (shape := out.pop()):
        fused[names[1]] = (count, *shape)
    return fused
