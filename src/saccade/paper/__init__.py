"""The paper's tables and figures as data: their cells, their recipes, their published numbers, and how to run one."""

from .figures import FIGURES
from .results import accuracies, found, results
from .run import merge, run_cells
from .scales import Scale, scaled
from .tables import TABLES, Cell, PaperTable

NAMES = (*TABLES, *FIGURES)  # what can be reproduced

__all__ = [
    "FIGURES",
    "NAMES",
    "TABLES",
    "Cell",
    "PaperTable",
    "Scale",
    "accuracies",
    "found",
    "merge",
    "results",
    "run_cells",
    "scaled",
]
