"""AlignFlow: few-shot distribution-aligned flow matching for medical image segmentation."""

__version__ = "0.1.0"

import getpass
import os

try:
    getpass.getuser()
except (KeyError, OSError):  # a container's user without a name; torch and MONAI ask for one
    os.environ["USER"] = f"user{os.getuid()}"
