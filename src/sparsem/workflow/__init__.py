"""How work is run: blocks, local workers, a cluster."""
