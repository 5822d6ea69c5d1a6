"""What pyproject.toml cannot say of the build: the optional C extension and the hook stubs in the wheel."""

import shutil
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_py import build_py


class BuildPy(build_py):
    """Packs `hooks/` into the wheel (a checkout reads them where they stand)."""

    def run(self) -> None:
        super().run()
        if self.editable_mode:
            return
        folder = Path(self.build_lib, "git_gru", "_hooks")
        folder.mkdir(parents=True, exist_ok=True)
        for file in sorted(Path("hooks").iterdir()):
            shutil.copy(file, folder / file.name)


setup(
    cmdclass={"build_py": BuildPy},
    ext_modules=[
        Extension(
            "git_gru.store._transform",
            ["git_gru/store/_transform.c"],
            extra_compile_args=["-O3"],
            define_macros=[("Py_LIMITED_API", "0x030B0000")],
            py_limited_api=True,
            optional=True,  # without a compiler the numpy twin in store/transform.py takes over
        )
    ],
    options={"bdist_wheel": {"py_limited_api": "cp311"}},
)
