#!/usr/bin/env python3
"""Stand-in for the program `ollama`; packed as bin/ollama."""

import sys
from pathlib import Path

sys.dont_write_bytecode = True
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "lib" / "ollama" / "stand_in"))

import server  # noqa: E402

server.main()
