"""Traces as tables, plots and pages."""
