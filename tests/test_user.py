"""A container's user without a name, as `docker run --user 12345` starts it."""

import os
import subprocess
import sys

NAMES = ("LOGNAME", "USER", "LNAME", "USERNAME")
NAMELESS = """
import getpass, os, pwd
def nobody(number):
    raise KeyError(f"getpwuid(): uid not found: {number}")
pwd.getpwuid = nobody
import alignflow
print(getpass.getuser() == f"user{os.getuid()}")
import alignflow.config  # with torch and MONAI, which ask for the name
"""


def test_a_user_without_a_name():
    environment = {k: v for k, v in os.environ.items() if k not in NAMES}
    environment["PYTHONPATH"] = os.pathsep.join(sys.path)
    line = [sys.executable, "-c", NAMELESS]
    done = subprocess.run(line, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "True\n"
