#!/usr/bin/env bash
# modulefinder fails with an AttributeError on every import from a package without __init__.py.
#
# Version:  Python 3.11.7, 3.12.1 and 3.13.0, standard library (python/cpython issue 84530, open)
# Setting:  a script says `import ops.blur`; the directory ops/ has blur.py and no __init__.py.
# Expected: modulefinder lists ops/blur.py, or counts ops among `badmodules` as it does with whatever
#           it does not find. Namespace packages exist since Python 3.3, and its documentation
#           promises "the set of modules imported by a script".
# Seen:     AttributeError: 'NoneType' object has no attribute 'is_package'. The specification of a
#           namespace package has no loader, which is used without a check. With an __init__.py,
#           the same script works.
# Matters:  who identifies or ships a user's code by what it imports would take the standard
#           library's tool for that. Directories without __init__.py are usual in research code, and
#           one of them anywhere among the imports, installed packages included, ends the search.
set -eu
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
cd "$dir"
mkdir ops
echo 'x = 1' > ops/blur.py
echo 'import ops.blur' > script.py
python3 - <<'PY'
import sys
from modulefinder import ModuleFinder
from pathlib import Path


def find() -> str:
    finder = ModuleFinder(path=["."])
    try:
        finder.run_script("script.py")
    except AttributeError as error:
        return f"AttributeError: {error}"
    return f"found {sorted(finder.modules)}, not found {sorted(finder.badmodules)}"


without = find()
print(f"without ops/__init__.py: {without}")
Path("ops/__init__.py").touch()
print(f"with it:                 {find()}")
if not without.startswith("AttributeError"):
    sys.exit("changed: modulefinder follows or names namespace packages now")
PY
