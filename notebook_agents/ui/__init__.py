"""Runs in a notebook: a timeline under the cell, its buttons, and what they do in the kernel."""
