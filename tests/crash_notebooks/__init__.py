"""Notebooks whose kernel or runner is killed at random moments until they come to their end."""
