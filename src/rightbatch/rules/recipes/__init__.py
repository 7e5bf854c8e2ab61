"""Recipes: batch-size rules that bring the learning rate that goes with them.

A new recipe is one file here and its class in `RECIPES`.
"""

from ...decision import BatchSizeRule
from .ada_batch import AdaBatch
from .dont_decay import DontDecay
from .geo_damp import GeoDamp
from .interpolation import Interpolation
from .recipe import Recipe
from .seesaw import Seesaw

RECIPES: dict[str, type[BatchSizeRule]] = {
    recipe.name: recipe for recipe in (AdaBatch, DontDecay, Seesaw, GeoDamp, Interpolation)
}

__all__ = ["RECIPES", "AdaBatch", "DontDecay", "GeoDamp", "Interpolation", "Recipe", "Seesaw"]
