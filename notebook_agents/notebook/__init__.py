"""Notebooks: how a run shows itself in a cell, and how a notebook runs without a browser.

Nothing of Jupyter is imported before a function here needs it, and nothing of LangGraph at all.
"""
