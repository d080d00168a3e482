"""What a terminal does to a run: nothing."""

import subprocess
import sys

CODE = """
import sys
from aeplus.utils.tables import print_line, print_table
for number in range(20000):
    print_line(f"line {number}")
print_table("Title", ["a"], [["b"]])
print("went on", file=sys.stderr)
"""


def test_that_nobody_reads_on_ends_the_printing_only() -> None:
    """As with ``| head -1``."""
    with subprocess.Popen(
        [sys.executable, "-c", CODE], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stdout.readline() == "line 0\n"
        process.stdout.close()
        assert process.stderr.read() == "went on\n"
    assert process.returncode == 0
