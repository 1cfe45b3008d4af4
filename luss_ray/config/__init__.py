"""Recipes: everything that decides a run's result, as frozen dataclasses, and the published settings."""
