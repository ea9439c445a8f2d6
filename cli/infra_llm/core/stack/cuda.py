"""Which CUDA release comes from where, for a given driver. Pure."""

from __future__ import annotations

from infra_llm.core.stack.model import CudaPlan
from infra_llm.core.stack.needs import Needs
from infra_llm.core.stack.request import AUTO, RefusalError, Request, Trail, names
from infra_llm.core.stack.rules import CudaRelease, version_of

WHEELS = "wheels"


def cuda_plan(
    request: Request, needs: Needs, branch: int, driver_source: str, trail: Trail
) -> CudaPlan:
    """The toolkit or runtime for a driver branch. Raises RefusalError where no source has one."""
    wished = request.wishes.cuda_source
    if wished == "none" or needs.cuda == "none":
        if wished != AUTO and needs.cuda != "none":
            trail.fire("cuda-pinned", wished)
        return CudaPlan("none")
    pinned = request.wishes.cuda_version is not None
    running = needs.release_for(branch, request.rules.cuda_majors, pinned)
    if not running:
        raise _too_old(request, needs, branch)
    order = _order(driver_source) if wished == AUTO else [wished]
    for source in order:
        release = _newest(request, running, source)
        if release is not None:
            _say(trail, release, branch, source, driver_source, wished)
            return _plan(request, needs, release, source)
    raise RefusalError(
        "no-toolkit",
        f"no toolkit for {names(needs.cards)} on driver {branch} from {' or '.join(order)} "
        f"for {request.distribution.label}",
        [
            *(["infra_llm_cuda_source: auto"] if wished != AUTO else []),
            "infra_llm_cuda_source: none, and bring a toolkit of your own",
            "infra_llm_engine: ollama, which brings its own CUDA",
            *_elsewhere(request),
        ],
    )


def _order(driver_source: str) -> list[str]:
    """A driver from the distribution keeps NVIDIA's repository out while it can."""
    orders = {"distro": ["distro", "vendor", WHEELS], "present": ["vendor", "distro", WHEELS]}
    return orders.get(driver_source, ["vendor", WHEELS])


def _newest(request: Request, running: list[CudaRelease], source: str) -> CudaRelease | None:
    distribution = request.distribution
    if source == "distro":
        own = distribution.own
        found = [r for r in running if own and r.version == own.cuda]
    elif source == "vendor":
        oldest = version_of(distribution.vendor.cuda)
        found = [r for r in running if version_of(r.version) >= oldest]
    else:
        found = [r for r in running if r.version in request.rules.cuda_wheels]
    return max(found, key=lambda r: version_of(r.version), default=None)


def _say(
    trail: Trail, release: CudaRelease, branch: int, source: str, driver: str, wished: str
) -> None:
    if wished != AUTO:
        trail.fire("cuda-pinned", wished)
    if release.driver > branch:
        trail.fire("cuda-minor", f"CUDA {release.version} on driver {branch}")
    elif source != "distro":
        trail.fire("cuda-newest-of-driver", f"CUDA {release.version} on driver {branch}")
    if release.version == "13.4":
        trail.fire("cuda-13-4")
    if source == "distro":
        trail.fire("cuda-distro", f"CUDA {release.version}")
    elif source == WHEELS and wished == AUTO:
        trail.fire("cuda-wheels", f"CUDA {release.version}")
    elif source == "vendor" and driver != "vendor":
        trail.fire("cuda-without-driver")


def _plan(request: Request, needs: Needs, release: CudaRelease, source: str) -> CudaPlan:
    """cuDNN stays out: none of the engines needs it on the host."""
    own, vendor = request.distribution.own, request.rules.vendor_packages
    root = request.rules.cuda_roots.get(source, "").format(version=release.version)
    if source == WHEELS:
        return CudaPlan(WHEELS, release.version, source=source, root=root)
    if source == "distro" and own is not None:
        packages = own.toolkit if needs.cuda == "toolkit" else own.runtime
        return CudaPlan(needs.cuda, release.version, list(packages), source)
    templates = vendor[request.distribution.family]
    wanted = templates.toolkit if needs.cuda == "toolkit" else templates.runtime
    dashed = release.version.replace(".", "-")
    names_of = [template.format(cuda=dashed) for template in wanted]
    return CudaPlan(needs.cuda, release.version, names_of, source, root)


def _too_old(request: Request, needs: Needs, branch: int) -> RefusalError:
    oldest = needs.releases[0]
    return RefusalError(
        "cuda-newer-than-driver",
        f"{names(needs.cards)} needs CUDA {oldest.version} or later, which driver {branch} "
        "does not run",
        [
            f"infra_llm_driver_branch: auto, or {oldest.driver} or later",
            "infra_llm_driver_source: vendor",
            *(["infra_llm_cuda_version: auto"] if request.wishes.cuda_version else []),
        ],
    )


def _elsewhere(request: Request) -> list[str]:
    if request.distribution.glibc_241:
        return ["Debian 12 or Ubuntu 24.04: CUDA 12 does not compile with Debian 13's glibc 2.41"]
    if version_of(request.distribution.vendor.cuda) >= (13, 0):
        return ["EL 9, Debian 12 or Ubuntu 24.04: NVIDIA's repositories for them have CUDA 12"]
    return []
