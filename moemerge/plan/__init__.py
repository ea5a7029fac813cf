"""Recipe and checkpoints → Plan: the operation, shape and dtype of every output tensor, and every problem."""

from moemerge.plan.cost import peak_memory, plan_json
from moemerge.plan.make import make_plan, sound_plan
from moemerge.plan.model import Plan, Refused

__all__ = ["Plan", "Refused", "make_plan", "peak_memory", "plan_json", "sound_plan"]
