"""Errors, seeds, logging: what every floor above may use."""
