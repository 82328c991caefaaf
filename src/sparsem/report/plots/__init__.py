"""Plots of the report and figures of a study."""
