"""Annotation at the site: the parts of the MONAI Label app that do not need MONAI Label."""
