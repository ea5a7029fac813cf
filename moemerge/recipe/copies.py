"""An expert that stands for several, in a recipe's tree: each of its copies stands where it stands itself."""

from __future__ import annotations

from collections.abc import Iterator

from moemerge.recipe.yaml import Entry, Items, Node, Scalar, Table


def spread_out(tree: Table) -> Table:
    """A sound recipe's tree with an expert for each copy, as `Recipe.experts` has them."""
    experts = tree.get("experts")
    if not isinstance(experts, Items):
        return tree
    nodes = tuple(copy for node in experts.nodes for copy in _copies(node))
    entry = Entry(tree.entries["experts"].key, Items(nodes, experts.place))
    return Table({**tree.entries, "experts": entry}, tree.place)


def _copies(node: Node) -> Iterator[Node]:
    count = node.get("copies") if isinstance(node, Table) else None
    return iter((node,) * (count.value if isinstance(count, Scalar) and isinstance(count.value, int) else 1))


def same_expert(tree: Table, index: int, other: int) -> bool:
    """Whether two experts of a tree that was spread out are copies of one."""
    experts = tree.get("experts")
    if not isinstance(experts, Items) or not 0 <= other < len(experts.nodes):
        return False
    return experts.nodes[index] is experts.nodes[other]
