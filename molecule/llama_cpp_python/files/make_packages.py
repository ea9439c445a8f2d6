"""Write stand-ins for the source of llama-cpp-python and for a build of llama.cpp, bytes the same.

python3 make_packages.py FOLDER
"""

import gzip
import hashlib
import io
import sys
import tarfile
from pathlib import Path

PACKAGE = """from pathlib import Path
LIBRARY = (Path(__file__).parent / "lib" / "libllama.so").read_text()
"""


def pack(path, files):
    with (
        gzip.GzipFile(path, "wb", mtime=0) as stream,
        tarfile.open(fileobj=stream, mode="w") as bundle,
    ):
        for name, text in files.items():
            info = tarfile.TarInfo(name)
            info.size, info.mode = len(text), 0o755 if name.endswith("llama-server") else 0o644
            bundle.addfile(info, io.BytesIO(text.encode()))


if __name__ == "__main__":
    folder = Path(sys.argv[1])
    source = {
        "llama_cpp_python-1.0/llama_cpp/__init__.py": PACKAGE,
        "llama_cpp_python-1.0/llama_cpp/server/__init__.py": "",
        "llama_cpp_python-1.0/vendor/llama.cpp/CMakeLists.txt": "stand-in\n",
    }
    pack(folder / "llama_cpp_python-1.0.tar.gz", source)
    build = {"./llama-server": "#!/bin/sh\n", "./libllama.so": "a build of another host"}
    kept = folder / "source-standin.tar.gz"
    pack(kept, build)
    sha256 = hashlib.sha256(kept.read_bytes()).hexdigest()
    (folder / f"{kept.name}.sha256").write_text(sha256)
    # A run was ended while it was fetched.
    (folder / "source-cut.tar.gz").write_bytes(kept.read_bytes()[:100])
    (folder / "source-cut.tar.gz.sha256").write_text(sha256)
