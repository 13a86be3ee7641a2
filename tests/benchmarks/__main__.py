"""Run the benchmarks: ``python -m tests.benchmarks [name ...] [--repeats N]``. Each in a process of its own."""

import argparse
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent


def main() -> int:
    names = sorted(path.stem.removeprefix("bench_") for path in HERE.glob("bench_*.py"))
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="name", help=f"which of: {', '.join(names)} (default: all)")
    parser.add_argument("--repeats", type=int, default=5, help="interleaved repeats of each measurement")
    arguments = parser.parse_args()
    unknown = sorted(set(arguments.names) - set(names))
    if unknown:
        parser.error(f"no benchmark called {', '.join(unknown)}; there are {', '.join(names)}")
    failed = []
    for name in arguments.names or names:
        print(f"# {name}", flush=True)
        code = f"from tests.benchmarks import bench_{name} as b; b.main({arguments.repeats})"
        if subprocess.run([sys.executable, "-c", code], cwd=HERE.parents[1], check=False).returncode:
            failed.append(name)
    if failed:
        print(f"# failed: {', '.join(failed)}", flush=True)
    return bool(failed)


if __name__ == "__main__":
    sys.exit(main())
