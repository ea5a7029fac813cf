"""Fits the router from texts. `fit_gate` is the one function; docs/gates.md explains the methods."""

from __future__ import annotations

from moemerge.gate.fit import fit_gate
from moemerge.gate.request import DenseModels, ExpertTexts, GateFit, GateRequest, GateStatistics

__all__ = ["DenseModels", "ExpertTexts", "GateFit", "GateRequest", "GateStatistics", "fit_gate"]
