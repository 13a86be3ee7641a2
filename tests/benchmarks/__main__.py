"""Run the benchmarks: ``python -m tests.benchmarks [name ...] [--repeats N]``. Each in a process of its own.

Further options go to a benchmark that is the only one named. ``gpu`` is run by name only: most machines have none.
"""

import argparse
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent


def main() -> int:
    names = sorted(path.stem.removeprefix("bench_") for path in HERE.glob("bench_*.py"))
    parser = argparse.ArgumentParser(
        prog="python -m tests.benchmarks", description=__doc__, allow_abbrev=False,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    parser.add_argument("names", nargs="*", metavar="name", help=f"which of: {', '.join(names)} (default: all)")
    parser.add_argument("--repeats", type=int, default=5, help="interleaved repeats of each measurement")
    arguments, further = parser.parse_known_args()
    unknown = sorted(set(arguments.names) - set(names))
    if unknown:
        parser.error(f"no benchmark called {', '.join(unknown)}; there are {', '.join(names)}")
    if further and arguments.names != ["gpu"]:
        parser.error(f"unrecognised: {' '.join(further)}")
    failed = []
    for name in arguments.names or [name for name in names if name != "gpu"]:
        print(f"# {name}", flush=True)
        code = f"from tests.benchmarks import bench_{name} as b; b.main({arguments.repeats})"
        if subprocess.run([sys.executable, "-c", code, *further], cwd=HERE.parents[1], check=False).returncode:
            failed.append(name)
    if failed:
        print(f"# failed: {', '.join(failed)}", flush=True)
    return bool(failed)


if __name__ == "__main__":
    sys.exit(main())
