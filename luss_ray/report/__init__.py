"""Figures and one self-contained HTML page that shows what a run has learnt."""
