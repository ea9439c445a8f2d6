"""Which Python package index hosts should download from when the site names none."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from typing import Any

from infra_llm.core.variables import AUTO

ASKED = "INFRA_LLM_PACKAGE_INDEXES"
"""In the environment of the processes that plan for a host: pip was asked once for all of them."""


def package_indexes() -> list[str]:
    """What pip on the controller is set to: its index and extra indexes, else pip's own default."""
    if ASKED in os.environ:
        known: list[str] = json.loads(os.environ[ASKED])
        return known
    settings = _pip_settings()
    main = os.environ.get("PIP_INDEX_URL") or settings.get("index-url") or _pip_default()
    extra = os.environ.get("PIP_EXTRA_INDEX_URL") or settings.get("extra-index-url", "")
    return [url for url in [main, *extra.split()] if url and not url.startswith("file:")]


def asked() -> dict[str, str]:
    """The variable for those processes."""
    return {ASKED: json.dumps(package_indexes())}


def site_settings(wishes: Mapping[str, Any]) -> dict[str, Any]:
    """The site's settings of downloads, as every role is given them."""
    index = wishes["infra_llm_package_index"]
    indexes = package_indexes() if index == AUTO else [index]
    return {"index_urls": indexes, "folders": wishes["infra_llm_artifact_folders"]}


def _pip_settings() -> dict[str, str]:
    done = subprocess.run(
        [sys.executable, "-m", "pip", "config", "list"],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    found = {}
    for line in done.stdout.splitlines():
        name, _, value = line.partition("=")
        section, _, key = name.partition(".")
        if section in ("global", "install", "download"):
            found[key] = value.strip("'\"")
    return found


def _pip_default() -> str:
    # pip's own constant: which index is the default is pip's decision, not ours.
    try:
        from pip._internal.models.index import PyPI
    except ImportError:
        return ""
    return str(PyPI.simple_url)
