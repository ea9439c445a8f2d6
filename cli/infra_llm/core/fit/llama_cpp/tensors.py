"""The engine's compute graph as data: tensors with sizes and no contents.

`Graph` orders tensors as ggml does (`ggml_visit_parents_graph` in ggml/src/ggml.c, build 11434), so
that what the allocator does with it equals what the engine does.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from infra_llm.core.errors import BadInputError
from infra_llm.core.fit.llama_cpp.hyper import DAMAGED

_INPLACE = "scale add add_id sub mul div sqr sqrt unary rope rms_norm clamp soft_max fill log"
INPLACE = frozenset(_INPLACE.split())
"""Operations that may write over their input (`ggml_op_can_inplace`)."""
VIEWS = frozenset({"view", "none"})
F32, F16, I32, I64 = 4, 2, 4, 8
Shape = tuple[int, int, int, int]


class LayoutError(Exception):
    """A graph that can't be: a tensor is missing, or two that meet do not go together."""


@contextmanager
def graph_of(kind: str, name: str) -> Iterator[None]:
    """Around the building of a graph of `kind`: raises BadInputError where a file makes none.

    Keys are checked as they are read (`read_hyper`, `header_number`); what is left is a tensor that
    is missing or of another shape, and numbers that do not go together.
    """
    try:
        yield
    except (LayoutError, LookupError, ArithmeticError) as error:
        raise BadInputError(
            f"its tensors and keys make no {kind} model ({error})",
            where=name or "GGUF header",
            hint=DAMAGED,
        ) from error


class Node:
    """One tensor of the graph."""

    __slots__ = (
        "children", "device", "element", "external", "held", "index", "is_input", "is_output",
        "layout", "n_views", "name", "ne", "offset", "op", "place", "root", "size", "src", "weight",
    )  # fmt: skip

    def __init__(self, op: str, ne: Sequence[int], element: int, src: Sequence[Node] = ()) -> None:
        self.op = op
        wide, high, deep, many = ne if len(ne) == 4 else (*ne, 1, 1, 1)[:4]
        self.ne: Shape = (wide, high, deep, many)
        self.src = list(src)
        self.element = element
        self.size = element * wide * high * deep * many
        self.layout: tuple[int, Shape] | None = (element, self.ne)
        """None for data with holes, which is never written over in place."""
        self.root: Node | None = None
        """The tensor that a view looks into."""
        self.external = False
        """Weights and caches: allocated elsewhere."""
        self.weight = False
        self.name = ""
        """A weight's, for messages."""
        self.is_input = False
        self.is_output = False
        self.device: int | None = None
        """The backend that runs it."""
        # What the allocator notes.
        self.children = 0
        self.n_views = 0
        self.held = False
        self.offset = 0
        self.place = 0
        self.index = -1


class Graph:
    """Nodes in the order in which the engine runs them, leaves apart."""

    def __init__(self) -> None:
        self.nodes: list[Node] = []
        self.leaves: list[Node] = []
        self._seen: set[int] = set()

    def expand(self, node: Node) -> Node:
        """Add a node after everything it needs (`ggml_build_forward_expand`)."""
        stack = [(node, 0)]
        if id(node) in self._seen:
            return node
        self._seen.add(id(node))
        while stack:
            current, place = stack.pop()
            if place < len(current.src):
                stack.append((current, place + 1))
                source = current.src[place]
                if id(source) not in self._seen:
                    self._seen.add(id(source))
                    stack.append((source, 0))
            elif current.op == "none":
                self.leaves.append(current)
            else:
                self.nodes.append(current)
        return node


def op(name: str, ne: Sequence[int], *src: Node, element: int = F32) -> Node:
    """A tensor that an operation computes."""
    return Node(name, ne, element, src)


def like(name: str, first: Node, *src: Node) -> Node:
    """An operation whose result has its first source's shape, in f32."""
    return Node(name, first.ne, F32, (first, *src))


def view(
    source: Node, ne: Sequence[int], *, dense: bool = False, extent: int | None = None
) -> Node:
    """A view; `dense` says that the shown data lies without holes (a reshape).

    Raises LayoutError where it shows more than there is, or a reshape less.
    """
    node = Node("view", ne, source.element, (source,))
    more = elements(node) - elements(source)
    if more > 0 or (dense and more):
        raise LayoutError(f"{_origin(source)} gives {elements(source)} elements for {list(ne)}")
    node.root = source.root or source
    if not dense:
        node.layout = None
    if extent is not None:
        node.size = extent
    if node.root.external:
        node.external = True
        node.device = node.root.device
    return node


def elements(node: Node) -> int:
    """Numbers that a tensor holds."""
    wide, high, deep, many = node.ne
    return wide * high * deep * many


def _origin(node: Node) -> str:
    """The weight that gave a tensor its shape, or else the operation, in words."""
    nearest = [node]
    for current in nearest:
        if current.name:
            return f"tensor {current.name}"
        nearest.extend(current.src)
    return f"the operation {node.op}"


def write(target: Node, *src: Node) -> Node:
    """An operation that writes into `target` (set_rows, cpy): a view of it."""
    node = Node("write", target.ne, F32, src)
    node.root = target.root or target
    node.size = 0
    node.external = node.root.external
    node.device = node.root.device
    return node


def given(ne: Sequence[int], element: int = F32) -> Node:
    """An input that the host fills."""
    node = Node("none", ne, element)
    node.is_input = True
    return node


def stored(ne: Sequence[int], size: int, device: int, *, weight: bool) -> Node:
    """A weight, or a layer of the cache, that lies on a device."""
    node = Node("none", ne, 0)
    node.size = size
    node.layout = None
    node.external = True
    node.weight = weight
    node.device = device
    return node
