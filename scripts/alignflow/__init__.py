"""AlignFlow: few-shot distribution-aligned flow matching for medical image segmentation."""

__version__ = "0.1.0"
