"""Start the engine as the launch file says.

    python3 launch.py /etc/infra-llm/launch.json

A file that names a program has it executed; the client of a container is told the image. For
llama.cpp it does not: a release with a llama-server binary is executed with the file's arguments;
the wheel xllamacpp holds the same server as a library, and the file's flags become its parameters.
Standard library, Python 3.8; unknown flags stop the start, so that no part of a plan is dropped in
silence.

Before that the machine is compared with the one that was planned for (hardware.json beside the
launch file). Exit status 78 says that they differ; the service managers do not start it again then.
This is no ExecStartPre=: RestartPreventExitStatus= counts the main process only.
"""

import json
import os
import pwd
import resource
import signal
import sys

HARDWARE_CHANGED = 78
MARK = "INFRA_LLM_LAUNCH_FILE"
"""In the environment of everything that a start leads to."""


def main():
    end_leftovers(os.path.abspath(sys.argv[1]))
    refuse_other_hardware(os.path.join(os.path.dirname(sys.argv[1]), "hardware.json"))
    with open(sys.argv[1], encoding="utf-8") as file:
        launch = json.load(file)
    os.environ.update(launch.get("environment") or {})
    if launch.get("program"):
        words = launch["program"] + launch["arguments"]
        if launch.get("container"):
            words = in_container(launch, words)
        os.execv(words[0], words)
    for name in ("llama-server", os.path.join("bin", "llama-server")):
        binary = os.path.join(launch["release"], name)
        if os.path.exists(binary):
            library_path = os.path.dirname(os.path.realpath(binary))
            os.environ["LD_LIBRARY_PATH"] = library_path
            os.execv(binary, [binary] + launch["arguments"])
    serve_from_wheel(launch)


def end_leftovers(launch_file, root="/proc"):
    """End what an earlier start left behind, and mark this one's processes.

    `ollama serve` and vLLM have servers of their own below them. systemd ends all of a unit;
    supervisor ends one process, and where that was killed, the others would keep memory and GPU.
    """
    mark = MARK + "=" + launch_file
    for name in os.listdir(root):
        if not name.isdigit() or int(name) == os.getpid():
            continue
        try:
            with open(os.path.join(root, name, "environ"), "rb") as file:
                if mark.encode("utf-8") in file.read().split(b"\0"):
                    os.kill(int(name), signal.SIGKILL)
        except OSError:  # of somebody else, or gone
            continue
    os.environ[MARK] = launch_file


def refuse_other_hardware(path):
    """End with HARDWARE_CHANGED where the plan's CPU, RAM or GPUs are not this machine's."""
    if not os.path.exists(path):
        return
    with open(path, encoding="utf-8") as file:
        planned = json.load(file)
    sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
    import identity

    del sys.path[0]
    changed = identity.differences(planned, identity.identity())
    if changed:
        sys.stderr.write(
            "infra-llm: hardware changed: run infra-llm provision (%s)\n" % "; ".join(changed)
        )
        sys.exit(HARDWARE_CHANGED)


def in_container(launch, words):
    """The client's command line with what only this host knows: the image's id, and the user's."""
    with open(os.path.join(launch["release"], "image.json"), encoding="utf-8") as file:
        image = json.load(file)["id"]
    user = pwd.getpwnam(launch["container"]["user"])
    known = {"{image}": image, "--user={user}": "--user=%d:%d" % (user.pw_uid, user.pw_gid)}
    # What the unit has: a host may allow less, and the engine would refuse more. -1 is no limit.
    for name, kind in (("nofile", resource.RLIMIT_NOFILE), ("nproc", resource.RLIMIT_NPROC)):
        most = resource.getrlimit(kind)[1]
        known["--ulimit=%s={%s}" % (name, name)] = "--ulimit=%s=%d:%d" % (name, most, most)
    return [known.get(word, word) for word in words]


def serve_from_wheel(launch):
    if not os.path.isdir(os.path.join(launch["release"], "xllamacpp")):
        sys.exit("no llama-server and no xllamacpp in " + launch["release"])
    sys.path.insert(0, launch["release"])
    import xllamacpp

    server = xllamacpp.Server(parameters(xllamacpp, launch))
    sys.stderr.write("serving on %s\n" % server.listening_address)
    sys.stderr.flush()
    # The server runs in threads of its own; a signal ends the process.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: os._exit(0))
    while True:
        signal.pause()


def parameters(xllamacpp, launch):
    """The launch file's flags as xllamacpp's CommonParams."""
    params = xllamacpp.CommonParams()
    params.model.path = launch["model"]
    companions = launch.get("companions") or {}
    params.mmproj.path = companions.get("projector", "")
    params.speculative.draft.mparams.path = companions.get("draft", "")
    params.model_alias = {launch["alias"]}
    params.hostnames = [launch["host"]]
    params.port = launch["port"]
    params.endpoint_metrics = True
    params.offline = True
    # Level 4 is the one that logs the sizes of the buffers, which verification reads.
    params.verbosity = 4
    setters = flag_setters(xllamacpp, params)
    for flag, value in launch["flags"].items():
        if flag not in setters:
            sys.exit("launch file: the wheel's server has no flag " + flag)
        setters[flag](value)
    return params


def flag_setters(xllamacpp, params):
    def put(target, attribute):
        return lambda value: setattr(target, attribute, value)

    def enum(attribute, cls, prefix):
        return lambda value: setattr(params, attribute, getattr(cls, prefix + value.upper()))

    def flash_attention(value):
        names = {"on": "ENABLED", "off": "DISABLED", "auto": "AUTO"}
        kind = xllamacpp.llama_flash_attn_type
        params.flash_attn_type = getattr(kind, "LLAMA_FLASH_ATTN_TYPE_" + names[value])

    def load_mode(value):
        kind = xllamacpp.llama_load_mode
        params.load_mode = getattr(kind, "LLAMA_LOAD_MODE_" + value.upper())

    def speculative_types(value):
        kind = xllamacpp.common_speculative_type
        names = [name.upper().replace("-", "_") for name in value.split(",")]
        params.speculative.types = [
            getattr(kind, "COMMON_SPECULATIVE_TYPE_" + name) for name in names
        ]

    flags = launch_memory_flags(load_mode)
    flags.update(
        {
            "ctx_size": put(params, "n_ctx"),
            "parallel": put(params, "n_parallel"),
            "batch_size": put(params, "n_batch"),
            "ubatch_size": put(params, "n_ubatch"),
            "n_gpu_layers": put(params, "n_gpu_layers"),
            "threads": put(params.cpuparams, "n_threads"),
            "threads_batch": put(params.cpuparams_batch, "n_threads"),
            "cache_type_k": enum("cache_type_k", xllamacpp.ggml_type, "GGML_TYPE_"),
            "cache_type_v": enum("cache_type_v", xllamacpp.ggml_type, "GGML_TYPE_"),
            "flash_attn": flash_attention,
            "cache_ram": put(params, "cache_ram_mib"),
            "ctx_checkpoints": put(params, "n_ctx_checkpoints"),
            "kv_unified": put(params, "kv_unified"),
            "swa_full": put(params, "swa_full"),
            "embeddings": put(params, "embedding"),
            "repack": lambda value: setattr(params, "no_extra_bufts", not value),
            "fit": lambda value: setattr(params, "fit_params", value == "on"),
            "spec_type": speculative_types,
            "spec_draft_n_max": put(params.speculative.draft, "n_max"),
            "n_gpu_layers_draft": put(params.speculative.draft, "n_gpu_layers"),
            "mmproj_offload": put(params, "mmproj_use_gpu"),
            "image_max_tokens": put(params, "image_max_tokens"),
            "numa": enum("numa", xllamacpp.ggml_numa_strategy, "GGML_NUMA_STRATEGY_"),
        }
    )
    return flags


def launch_memory_flags(load_mode):
    """mmap and mlock, which newer builds know as one load mode."""
    wished = {"mmap": True, "mlock": False}

    def note(name):
        def setter(value):
            wished[name] = value
            words = [word for word in ("mmap", "mlock") if wished[word]]
            load_mode("_".join(words) or "none")

        return setter

    return {"mmap": note("mmap"), "mlock": note("mlock")}


if __name__ == "__main__":
    main()
