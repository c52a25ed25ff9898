import sys
from pathlib import Path

# The scripts are run by path, and find each other beside themselves: so do their tests.
sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
