"""Write stand-ins for packages: wheels whose bytes are always the same.

python3 make_wheels.py FOLDER
"""

import sys
import zipfile
from pathlib import Path


def wheel(folder, name):
    info = name + "-1.0.dist-info"
    files = {
        name + "/__init__.py": 'NAME = "' + name + '"\n',
        info + "/METADATA": "Metadata-Version: 2.1\nName: " + name + "\nVersion: 1.0\n",
        info + "/WHEEL": "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    rows = [f"{path},,{len(text)}" for path, text in files.items()]
    files[info + "/RECORD"] = "\n".join([*rows, info + "/RECORD,,"]) + "\n"
    path = Path(folder, name + "-1.0-py3-none-any.whl")
    with zipfile.ZipFile(path, "w") as archive:
        for inner, text in files.items():
            # Not compressed and of one date: the lock file knows the sha256.
            archive.writestr(zipfile.ZipInfo(inner), text)
    return path


if __name__ == "__main__":
    for standin in ("standin_server", "standin_kernels"):
        wheel(sys.argv[1], standin)
