"""Runs code with the revision installed in SITE: `python launch.py SITE MODULE|SCRIPT.py ARGUMENTS...`.

An editable installation of the same package redirects its imports wherever PYTHONPATH points; here that finder is taken out.
"""

import importlib.machinery
import importlib.util
import runpy
import sys
from pathlib import Path


def use_only(site: str) -> None:
    sys.path.insert(0, site)
    path_finder = importlib.machinery.PathFinder
    sys.meta_path[:] = [f for f in sys.meta_path if f is path_finder or f.find_spec("geluless", None) is None]
    spec = importlib.util.find_spec("geluless")
    if spec is None or spec.origin is None or not Path(spec.origin).is_relative_to(site):
        sys.exit(f"geluless would come from {spec and spec.origin}, not from {site}")


if __name__ == "__main__":
    use_only(sys.argv[1])
    sys.argv = sys.argv[2:]
    if sys.argv[0].endswith(".py"):
        runpy.run_path(sys.argv[0], run_name="__main__")
    else:
        runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
