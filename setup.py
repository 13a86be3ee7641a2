"""Puts the notebooks and presets into the wheel, for ``tlskit init``. Everything else stands in pyproject.toml."""

import shutil
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py

ROOT = Path(__file__).parent


class BuildWithNotebooks(build_py):
    def run(self):
        super().run()
        if not self.editable_mode:  # a clone has them beside the package
            for folder, pattern in (("notebooks", "*.ipynb"), ("params", "*.yaml")):
                target = Path(self.build_lib) / "tlskit" / "project" / folder
                shutil.rmtree(target, ignore_errors=True)
                target.mkdir(parents=True)
                for path in sorted((ROOT / folder).glob(pattern)):
                    shutil.copyfile(path, target / path.name)


setup(cmdclass={"build_py": BuildWithNotebooks})
