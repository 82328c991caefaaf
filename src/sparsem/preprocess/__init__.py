"""Alignment, equalization and denoising of an imported stack."""
