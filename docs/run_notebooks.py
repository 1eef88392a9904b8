"""Runs the notebooks in an empty folder each and writes them, with their outputs, into a folder.

python docs/run_notebooks.py FOLDER
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

NOTEBOOKS = Path(__file__).parent / "notebooks"


def run(path: Path, folder: Path) -> None:
    """Run one notebook with this interpreter; an error in a cell is raised with its traceback.

    Args:
        path: the notebook.
        folder: its working folder.
    """
    import nbformat
    from jupyter_client.kernelspec import KernelSpec
    from jupyter_client.manager import AsyncKernelManager
    from nbclient import NotebookClient

    class ThisPython(AsyncKernelManager):
        """A kernel of this interpreter, whatever kernels the user has installed."""

        @property
        def kernel_spec(self) -> KernelSpec:
            return KernelSpec(argv=[sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"])

    notebook = nbformat.read(path, as_version=4)
    client = NotebookClient(
        notebook, timeout=300, resources={"metadata": {"path": str(folder)}}, kernel_manager_class=ThisPython
    )
    client.execute()
    out = folder / path.name
    nbformat.write(notebook, out)


def main(out: Path) -> None:
    """Run every notebook."""
    out.mkdir(parents=True, exist_ok=True)
    for path in sorted(NOTEBOOKS.glob("*.ipynb")):
        with tempfile.TemporaryDirectory() as folder:
            run(path, Path(folder))
            (out / path.name).write_bytes((Path(folder) / path.name).read_bytes())


if __name__ == "__main__":
    main(Path(sys.argv[1]))
