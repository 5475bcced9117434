"""AlignFlow: few-shot distribution-aligned flow matching for medical image segmentation."""

__version__ = "0.1.0"

import getpass
import os

try:
    getpass.getuser()
except (KeyError, OSError):  # a user without a name, as in containers; torch and MONAI need a name
    os.environ["USER"] = f"user{os.getuid()}"
