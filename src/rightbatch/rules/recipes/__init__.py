"""Recipes: batch-size rules that bring the learning rate that goes with them.

A new recipe is one file here and its class in `RECIPES`.
"""

from typing import Any

from ...decision import BatchSizeRule
from ...rule_text import read_rule
from .ada_batch import AdaBatch
from .dont_decay import DontDecay
from .geo_damp import GeoDamp
from .interpolation import Interpolation
from .recipe import Recipe
from .seesaw import Seesaw

RECIPES: dict[str, type[BatchSizeRule]] = {
    recipe.name: recipe for recipe in (AdaBatch, DontDecay, Seesaw, GeoDamp, Interpolation)
}


def read_recipe(spec: Any) -> Any:
    """Return the recipe that a text names, and anything else unchanged."""
    return read_rule(spec, RECIPES, "recipe") if isinstance(spec, str) else spec


Recipe.read = read_recipe

__all__ = ["RECIPES", "AdaBatch", "DontDecay", "GeoDamp", "Interpolation", "Recipe", "Seesaw"]
