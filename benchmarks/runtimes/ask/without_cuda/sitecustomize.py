"""Lets the torchvision of PyPI be imported beside a torch for CPUs, in every process of vLLM.

Its compiled part needs CUDA, and without that part the import fails at two operators. vLLM imports it for a model that
sees; texts alone are asked, so nothing calls them.
"""

from __future__ import annotations

import torch

_LIBRARY = torch.library.Library("torchvision", "DEF")
for _name in ("nms", "qnms"):
    _LIBRARY.define(f"{_name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
