"""Masks as signed distances, their descriptions, and the clean-up of generated ones."""
