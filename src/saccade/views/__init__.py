"""Views of pictures: deformations of a whole batch at a time, every picture with its own keyed draw."""

from .layout import LAYOUTS, Views, make_views
from .policy import Policy, parse

__all__ = ["LAYOUTS", "Policy", "Views", "make_views", "parse"]
