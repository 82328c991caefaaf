"""Execution of work: blocks, local workers, a cluster."""
