"""Which device runs each tensor, what is copied between devices, and the peak of each buffer.

Sources: `ggml_backend_sched_split_graph` in ggml/src/ggml-backend.cpp, `ggml_gallocr` and
`ggml_dyn_tallocr` in ggml/src/ggml-alloc.c, the offload rule of ggml/src/ggml-cuda/ggml-cuda.cu
(build 11434). Devices count from 0, the host is the last.
"""

from __future__ import annotations

from dataclasses import dataclass

from infra_llm.core.fit.llama_cpp.tensors import INPLACE, VIEWS, Graph, Node

OFFLOAD_ROWS = 32
"""A batch of so many rows makes a GPU fetch weights that lie on the host."""
CHOOSES_BY_WEIGHT = frozenset({"rope", "flash_attn"})
"""Operations whose weights are too small to choose the device."""


@dataclass(frozen=True)
class Backend:
    """How the devices behave."""

    devices: int
    """GPUs."""
    alignment: int = 128
    """Of a GPU buffer: CUDA 128, RPC to a CPU 32."""
    host_alignment: int = 32
    offload: bool = True
    """GPUs fetch weights from the host for large batches (op_offload, CUDA and Vulkan)."""
    cuda: bool = True
    copies: int = 1
    """Input copies of pipeline parallelism (GGML_SCHED_MAX_COPIES is 4)."""

    @property
    def host(self) -> int:
        return self.devices


class Space:
    """Free blocks of one buffer (`ggml_dyn_tallocr`): best fit, the tail grows."""

    def __init__(self, alignment: int) -> None:
        self.alignment = alignment
        self.free: list[list[int]] = [[0, 1 << 62]]
        self.peak = 0

    def take(self, size: int) -> int:
        """Offset of a new block."""
        size = -(-size // self.alignment) * self.alignment
        best, best_size = len(self.free) - 1, 1 << 62
        for place in range(len(self.free) - 1):
            room = self.free[place][1]
            if size <= room <= best_size:
                best, best_size = place, room
        block = self.free[best]
        offset = block[0]
        block[0] += size
        block[1] -= size
        if not block[1]:
            del self.free[best]
        self.peak = max(self.peak, offset + size)
        return offset

    def give(self, offset: int, size: int) -> None:
        """Return a block and merge it with its neighbours."""
        size = -(-size // self.alignment) * self.alignment
        free = self.free
        for place, block in enumerate(free):
            if block[0] + block[1] == offset:
                block[1] += size
                if place + 1 < len(free) and block[0] + block[1] == free[place + 1][0]:
                    block[1] += free[place + 1][1]
                    del free[place + 1]
                return
            if offset + size == block[0]:
                block[0] = offset
                block[1] += size
                if place and free[place - 1][0] + free[place - 1][1] == block[0]:
                    free[place - 1][1] += block[1]
                    del free[place]
                return
            if block[0] > offset:
                free.insert(place, [offset, size])
                return
        free.append([offset, size])


def buffer_peaks(graph: Graph, backend: Backend) -> list[int]:
    """Bytes of the compute buffer of each GPU, the host last."""
    assign(graph, backend)
    nodes, leaves = split(graph, backend)
    return allocate(nodes, leaves, backend)


def assign(graph: Graph, backend: Backend) -> None:
    """Passes 1 to 4: weights choose, GPUs expand down and up, then the rest."""
    host = backend.host
    for leaf in graph.leaves:
        if leaf.device is None and leaf.is_input:
            leaf.device = host
    for node in graph.nodes:
        if node.device is None and node.op not in CHOOSES_BY_WEIGHT:
            node.device = _by_weight(node, backend)
    working = [node for node in graph.nodes if node.op not in VIEWS]
    for order, everyone in (
        (working, False), (working[::-1], False), (working, True), (working[::-1], True),
    ):  # fmt: skip
        current: int | None = None
        for node in order:
            if node.device is not None:
                current = node.device if everyone or node.device != host else None
            elif current is not None:
                node.device = current
    for node in graph.nodes:
        if node.device is None:
            node.device = node.root.device if node.root else host
        for source in node.src:
            if source.device is None:
                source.device = source.root.device if source.root else node.device


def _by_weight(node: Node, backend: Backend) -> int | None:
    for source in node.src:
        if not source.weight:
            continue
        if source.device == backend.host and backend.offload and backend.devices:
            if node.op == "get_rows":
                rows = 0
            elif node.op == "mul_mat":
                rows = node.ne[1]
            elif node.op in {"mul_mat_id", "rope"}:
                rows = node.ne[2]
            else:
                rows = node.ne[1] * node.ne[2] * node.ne[3]
            if rows >= OFFLOAD_ROWS:
                return 0
        return source.device
    return None


def split(graph: Graph, backend: Backend) -> tuple[list[Node], list[Node]]:
    """Pass 5: cut the graph where the device changes and add the copies that each part needs."""
    nodes: list[Node] = []
    kept: list[Node] = []
    copies: dict[tuple[int, int], Node] = {}
    current: int | None = None
    inputs = 0
    part: list[Node] = []
    start: list[Node] = []

    def close() -> None:
        nodes.extend(start)
        nodes.extend(part)
        start.clear()
        part.clear()

    for node in graph.nodes:
        if node.op in VIEWS:
            part.append(node)
            continue
        device = node.device
        assert device is not None
        fresh = device != current
        if not fresh and inputs:
            fresh = any(s.weight and _must_copy(s, device, backend) for s in node.src)
        if fresh:
            close()
            current, inputs = device, 0
        for place, source in enumerate(node.src):
            if not _must_copy(source, device, backend):
                continue
            key = (id(source), device)
            if key not in copies:
                inputs += 1
                made = _copies(source, device, backend)
                copies[key] = made[0]
                kept.extend(made if backend.copies > 1 else ())
                hold = Node("none", source.ne, 0, (source,))
                hold.root, hold.device, hold.external = source, source.device, True
                start.extend((hold, made[0]))
            node.src[place] = copies[key]
        part.append(node)
    close()
    if backend.copies > 1:
        for leaf in graph.leaves:
            if leaf.is_input:
                leaf.is_output = True
                kept.append(leaf)
                for _ in range(backend.copies - 1):
                    kept.append(_copy(leaf, backend.host, keep=True))
    return nodes, [*kept, *graph.leaves]


def _must_copy(source: Node, device: int, backend: Backend) -> bool:
    """A GPU reads only its own memory, the host only its own."""
    del backend
    return source.device != device


def _copies(source: Node, device: int, backend: Backend) -> list[Node]:
    return [_copy(source, device, backend.copies > 1) for _ in range(backend.copies)]


def _copy(source: Node, device: int, keep: bool) -> Node:
    node = Node("none", source.ne, 0)
    node.size = source.size
    node.layout = source.layout
    node.device = device
    node.is_input = node.is_output = keep
    return node


def allocate(nodes: list[Node], leaves: list[Node], backend: Backend) -> list[int]:
    """`ggml_gallocr_alloc_graph_impl`: peak bytes of each buffer, the host last."""
    spaces = [Space(backend.alignment) for _ in range(backend.devices)]
    spaces.append(Space(backend.host_alignment))
    for leaf in leaves:
        _place(leaf, spaces)
    for node in nodes:
        if node.root is not None and node.op != "none":
            node.root.n_views += 1
        for source in node.src:
            source.children += 1
            if source.is_input:
                _place(source, spaces)
    for node in nodes:
        for source in node.src:
            _place(source, spaces)
        _place(node, spaces)
        for source in node.src:
            source.children -= 1
            if source.children or source.n_views:
                continue
            if source.root is not None:
                root = source.root
                root.n_views -= 1
                if not root.n_views and not root.children and root.held:
                    _free(root, spaces)
            elif source.held:
                _free(source, spaces)
    return [space.peak for space in spaces]


def _place(node: Node, spaces: list[Space]) -> None:
    if node.held or node.external or node.root is not None or node.index >= 0:
        return
    node.held = True
    node.index = 0
    if node.op in INPLACE:
        for parent in node.src:
            if not parent.held or parent.is_output or parent.children != 1 or parent.n_views:
                continue
            if parent.layout is None or parent.layout != node.layout:
                continue
            node.offset, node.place = parent.offset, parent.place
            parent.held = False
            return
    assert node.device is not None
    node.place = node.device
    node.offset = spaces[node.place].take(node.size)


def _free(node: Node, spaces: list[Space]) -> None:
    if node.is_output:
        return
    spaces[node.place].give(node.offset, node.size)
    node.held = False
