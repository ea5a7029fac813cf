"""Names of tensors: which of a dense model's nobody reads, and what a folder's become in transformers' memory."""

from __future__ import annotations

import re
from collections.abc import Mapping

from moemerge.verify.hosts import HostRow, Shape

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
    alone = {host.router: host.router_in_memory, **dict(zip(host.fused, in_class, strict=True))}
    renamed = [(_pattern(disk), memory) for disk, memory in alone.items()]
    result: dict[str, Shape] = {}
    layers: dict[int, dict[tuple[int, int], Shape]] = {}
    for name, shape in on_disk.items():
        other = next((memory.format(**f.groupdict()) for disk, memory in renamed if (f := disk.fullmatch(name))), None)
        if other is not None:
            result[other] = shape
            continue
        fits = ((kind, found) for kind, pattern in enumerate(matrices) if (found := pattern.fullmatch(name)))
        kind, found = next(fits, (0, None))
        if found is None:
            result[host.in_memory(name)] = shape
        else:
            layers.setdefault(int(found["layer"]), {})[int(found["expert"]), kind] = shape
    for layer, experts in layers.items():
        gate_up, down = (memory.format(layer=layer) for memory in in_class)
        result |= _fuse((gate_up, down), experts)
    return result


def _pattern(template: str) -> re.Pattern[str]:
    """Matches the names that a template with `{layer}` and `{expert}` gives."""
    return re.compile(re.sub(r"\\{(\w+)\\}", r"(?P<\1>\\d+)", re.escape(template)))


def _fuse(names: tuple[str, str], experts: Mapping[tuple[int, int], Shape]) -> dict[str, Shape]:
    """Stacks gate (0), up (1) and down (2) of every expert, unless one of them is missing or has another shape."""
    count = 1 + max(expert for expert, _ in experts)
    gate, up, down = ({experts.get((expert, kind)) for expert in range(count)} for kind in range(3))
    fused: dict[str, Shape] = {}
    if gate == up and len(gate) == 1 and (shape := gate.pop()):
        fused[names[0]] = (count, 2 * shape[0], *shape[1:])
    if len(down) == 1 and (shape := down.pop()):
        fused[names[1]] = (count, *shape)
    return fused
