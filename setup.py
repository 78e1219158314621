"""What `pyproject.toml` cannot say of the wheels.

The C library is loaded with ctypes and knows nothing of Python's, so that one wheel of a platform serves every version
of it: `py3-none-PLATFORM`. With `--pure` it is left out, and the wheel is everybody's, `py3-none-any`:

    python -m build --wheel -C--build-option=--pure    (or pip install . -C--build-option=--pure)
"""

from pathlib import Path

from setuptools import setup
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.build_ext import build_ext


class Wheel(bdist_wheel):
    """A wheel that is of no version of Python, and with `--pure` of no platform."""

    user_options = [*bdist_wheel.user_options, ("pure", None, "leave out the C library")]  # noqa: RUF012
    boolean_options = [*bdist_wheel.boolean_options, "pure"]  # noqa: RUF012

    def initialize_options(self) -> None:
        super().initialize_options()
        self.pure = False

    def finalize_options(self) -> None:
        if self.pure:
            self.distribution.ext_modules = []
        super().finalize_options()

    def get_tag(self) -> tuple[str, str, str]:
        return "py3", "none", super().get_tag()[2]


class Library(build_ext):
    """A library whose name has no version of Python in it: every one finds it."""

    def get_ext_filename(self, fullname: str) -> str:
        return str(Path(*fullname.split("."))) + ".so"


setup(cmdclass={"bdist_wheel": Wheel, "build_ext": Library})
