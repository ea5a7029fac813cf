"""Looks at the models that a user names and writes a recipe for them, with prompts suggested by the experts' names."""

from moemerge.init.domains import DOMAINS, domain_of, suggested_prompts
from moemerge.init.draft import Draft, draft_recipe, write_new
from moemerge.init.wanted import Wanted, wanted_of

__all__ = ["DOMAINS", "Draft", "Wanted", "domain_of", "draft_recipe", "suggested_prompts", "wanted_of", "write_new"]
