"""Data sets, a module for each family of file formats."""
