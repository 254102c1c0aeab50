"""Results as tables, figures and self-contained pages, from plain data."""
