#!/usr/bin/python
"""Ansible module: an engine's image in docker or podman, verified."""

from __future__ import annotations

DOCUMENTATION = r"""
module: container_image
short_description: Have an image in docker or podman, verified
description:
  - An archive of the site's folders or places is checked by its sha256, then loaded; an image of a
    registry is pulled by its digest. Its id stands in C(image.json) of O(dest); a service runs it.
  - In check mode nothing is touched and no place is asked.
options:
  dest:
    description: Folder of the release; with O(state=absent) the folder of all releases.
    type: path
    required: true
  state:
    description: C(absent) takes the images of all releases out of docker; the folders stay.
    type: str
    choices: [present, absent]
    default: present
  runtime:
    description: The container engine.
    type: str
    choices: [docker, podman]
  user:
    description: The service's user, whose podman it is; needed with podman.
    type: str
  containers:
    description: Folder of that user's stores; needed with podman.
    type: path
  image:
    description: The image as an artifact of the catalogue.
    type: dict
  artifact:
    description: C(name), C(version), C(filename) and C(sha256), which the marker shall name.
    type: dict
  settings:
    description: What the site decides; C(folders) are asked first.
    type: dict
    default: {}
attributes:
  check_mode:
    support: full
  diff_mode:
    support: none
author: infra-llm
"""

EXAMPLES = r"""
- name: Have vLLM's image
  container_image:
    dest: /opt/infra-llm/vllm/releases/podman-0.32.0-1a2b3c4d
    runtime: podman
    user: infra-llm
    containers: /var/lib/containers/infra-llm
    image: "{{ method.image }}"
    artifact: "{{ method.artifact }}"
    settings: {folders: [/srv/artifacts]}
"""

RETURN = r"""
path:
  description: The folder.
  returned: state is present
  type: str
id:
  description: The image's id, as the engine knows it.
  returned: state is present
  type: str
place:
  description: Where it came from; empty when it was there.
  returned: state is present
  type: str
removed:
  description: Ids of the images that were taken away.
  returned: state is absent
  type: list
  elements: str
"""

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.core.errors import InfraLlmError
from ansible.module_utils.target.container_image import remove_images, run_image


def main():
    module = AnsibleModule(
        argument_spec={
            "dest": {"type": "path", "required": True},
            "state": {"type": "str", "choices": ["present", "absent"], "default": "present"},
            "runtime": {"type": "str", "choices": ["docker", "podman"]},
            "user": {"type": "str"},
            "containers": {"type": "path"},
            "image": {"type": "dict"},
            "artifact": {"type": "dict"},
            "settings": {"type": "dict", "default": {}},
        },
        required_if=[
            ("state", "present", ("runtime", "image", "artifact")),
            ("runtime", "podman", ("user", "containers")),
        ],
        supports_check_mode=True,
    )
    try:
        if module.params["state"] == "present":
            module.exit_json(**run_image(module.params, module.check_mode))
        removed = [] if module.check_mode else remove_images(module.params["dest"])
        module.exit_json(changed=bool(removed), removed=removed)
    except InfraLlmError as error:
        module.fail_json(msg=str(error), exit_code=int(error.code))


if __name__ == "__main__":
    main()
