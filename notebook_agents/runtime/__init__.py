"""Steps, replay and recovery: knows neither LangGraph nor Jupyter."""
