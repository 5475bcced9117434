"""The bundle's configs go into the wheel, so that `alignflow` works in any folder."""

import shutil
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py


class WithConfigs(build_py):
    """Copies bundle/configs to alignflow/bundle/configs."""

    def run(self) -> None:
        """Build as ever, then copy; an editable install finds them in the checkout."""
        super().run()
        if not self.editable_mode:
            place = Path(self.build_lib) / "alignflow/bundle/configs"
            shutil.copytree("bundle/configs", place, dirs_exist_ok=True)


setup(cmdclass={"build_py": WithConfigs})
