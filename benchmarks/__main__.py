"""Runs a benchmark by its name.

python -m benchmarks                       # lists them
python -m benchmarks big_model --shapes tiny
"""

import ast
import runpy
import sys
from pathlib import Path

HERE = Path(__file__).parent


def names() -> dict[str, str]:
    """Each benchmark with the first line of its description."""
    found = {}
    for path in sorted(HERE.glob("*.py")):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        if any(isinstance(node, ast.FunctionDef) and node.name == "main" for node in tree.body) and path.stem[0] != "_":
            found[path.stem] = (ast.get_docstring(tree) or "").splitlines()[0]
    return found


def main() -> None:
    """Runs one, with the arguments behind its name."""
    known = names()
    name = sys.argv[1] if len(sys.argv) > 1 else ""
    if name not in known:
        if name not in ("", "-h", "--help"):
            sys.exit(f"expected one of {', '.join(known)}, got {name!r}; choose one.")
        print("python -m benchmarks NAME [options]\n")
        print("\n".join(f"  {name:<16} {text}" for name, text in known.items()))
        return
    sys.argv = [f"python -m benchmarks {name}", *sys.argv[2:]]
    sys.path.insert(0, str(HERE))  # they import each other as they do when run as files
    runpy.run_path(str(HERE / f"{name}.py"), run_name="__main__")


if __name__ == "__main__":
    main()
