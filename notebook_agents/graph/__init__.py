"""LangGraph: the only package that knows it."""
