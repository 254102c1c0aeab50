"""The paper's tables and figures as data: their cells, their recipes, their published numbers, and how to run one."""

from .run import SCALES, Scale, results, run_cells
from .tables import TABLES, Cell, PaperTable

__all__ = ["SCALES", "TABLES", "Cell", "PaperTable", "Scale", "results", "run_cells"]
