"""Test hosts: real systemd machines to provision, made and removed in seconds (docs/test-hosts.md).

Standard library only, so that it runs before any environment exists.
"""
