"""Numbers in tables; and what a terminal does to a run: nothing."""

import subprocess
import sys

from aeplus.utils.tables import latex_table, shown, spread, with_deviation

CODE = """
import sys
from aeplus.utils.tables import print_line, print_table
for number in range(20000):
    print_line(f"line {number}")
print_table("Title", ["a"], [["b"]])
print("went on", file=sys.stderr)
"""


def test_latex_takes_any_text() -> None:
    rows = [["[a_b] & 5 %", "95.0 ± 7.1"], ["\\x{~^}\n$#", "–"]]
    assert latex_table("Of\ntwo", ["method", "‖Λp‖_F of P\u0303"], rows, left=["method"]).splitlines() == [
        "% Of two",
        r"\begin{tabular}{lr}",
        r"\toprule",
        r"method & $\|$$\Lambda$p$\|$\_F of $\tilde{P}$ \\",
        r"\midrule",
        r"{[}a\_b] \& 5 \% & 95.0 $\pm$ 7.1 \\",
        r"\textbackslash{}x\{\textasciitilde{}\textasciicircum{}\} \$\# & -- \\",
        r"\bottomrule",
        r"\end{tabular}",
    ]


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


def test_what_is_not_known_is_a_dash() -> None:
    assert shown(None) == "–"
    assert shown(12.34) == "12.3"
    assert shown(0.0123, ".2g") == "0.012"


def test_one_value_has_no_deviation() -> None:
    assert with_deviation(95.0, 7.07, ".1f") == "95.0 ± 7.1"
    assert with_deviation(95.0, None, ".1f") == "95.0"


def test_spread() -> None:
    assert spread([90.0, 100.0, None], ".1f") == "95.0 ± 7.1"  # the sample's deviation: 10 / √2
    assert spread([90.0, None], ".1f") == "90.0"
    assert spread([None], ".1f") == "–"


def test_the_spread_leaves_out_and_counts_what_is_not_finite() -> None:
    inf, nan = float("inf"), float("nan")
    assert spread([inf, 1.0], ".2g") == "1 (1 of 2 finite)"
    assert spread([90.0, nan, 100.0, None], ".1f") == "95.0 ± 7.1 (2 of 3 finite)"
    assert spread([nan, inf, None], ".1f") == "not finite"
