"""Figures and tables of what was found, each made from values."""
