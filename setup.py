"""The build step that pyproject.toml has no words for: the wheel ships `conf/` inside the package, as `edgenetllm/conf`."""

import shutil
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py


class BuildWithConf(build_py):
    """Adds the YAML files of `conf/` to what is built; an editable install reads them where they lie."""

    def run(self) -> None:
        if not self.editable_mode:  # an earlier build's modules, moved or deleted since, would be shipped too
            shutil.rmtree(Path(self.build_lib, "edgenetllm"), ignore_errors=True)
        super().run()
        if not self.editable_mode:
            for built, source in self._conf().items():
                self.mkpath(str(Path(built).parent))
                self.copy_file(source, built)

    def get_outputs(self, include_bytecode: bool = True) -> list[str]:
        return [*super().get_outputs(include_bytecode), *self._conf()]

    def get_output_mapping(self) -> dict[str, str]:
        return {**super().get_output_mapping(), **self._conf()}

    def _conf(self) -> dict[str, str]:
        """Built file -> source."""
        sources = sorted(Path("conf").rglob("*.yaml"))
        return {str(Path(self.build_lib, "edgenetllm", source)): str(source) for source in sources}


setup(cmdclass={"build_py": BuildWithConf})
