"""Coverage-guided fuzzing of one target: python tests/fuzz/fuzz.py TARGET [SECONDS] [libFuzzer option ...]

Finds are written to the working folder as crash-*, what reaches new code to .fuzz/TARGET. The last line says how many
inputs were tried.
"""

import sys
from pathlib import Path

import atheris

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))

with atheris.instrument_imports(include=["loadgen", "analysis"], enable_loader_override=False):
    from targets import TARGETS


def main() -> None:
    """Run until the time is up, a target fails or the number of runs is reached."""
    name, *options = sys.argv[1:]
    if options and options[0].isdigit():
        options[0] = f"-max_total_time={options[0]}"
    found = Path(".fuzz", name)
    found.mkdir(parents=True, exist_ok=True)
    defaults = ["-max_len=32768", "-timeout=20", "-rss_limit_mb=3000", "-print_final_stats=1", "-verbosity=0"]
    atheris.Setup([sys.argv[0], str(found), str(HERE / "corpus" / name), *defaults, *options], TARGETS[name])
    atheris.Fuzz()


if __name__ == "__main__":
    main()
