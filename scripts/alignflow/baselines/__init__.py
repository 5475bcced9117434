"""Cheap ways to adapt to a site, against which alignment is measured."""
