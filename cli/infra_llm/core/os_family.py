"""Families of distributions, by os-release. Pure; standard library, Python 3.8."""

from __future__ import annotations

REDHAT = ("rhel", "rocky", "almalinux", "centos", "fedora", "ol")


def os_family(distribution: str, like: str = "") -> str:
    """The name that roles use for a family, "debian" or "redhat".

    `distribution` is ID of os-release, `like` its ID_LIKE, words with spaces between.
    """
    words = [distribution, *like.split()]
    return "redhat" if any(word in REDHAT for word in words) else "debian"
