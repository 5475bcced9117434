"""Tasks of the MONAI Label app."""
