"""Tiles: how a slice of any size meets a network of one size."""
