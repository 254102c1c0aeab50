"""The typed configuration of a run and the tables of names; imports nothing heavy."""
