"""LightGBM's text held against what its reader takes for granted, so that a stranger's file does no harm.

The reader trusts the lengths and places that a text gives, so each tree is checked: as many values as nodes, children
behind their parents (so that no walk runs in circles), columns and categories that exist.
"""

import re

import numpy as np

from smp_ray.errors import DataError

#: Trees of a model, and leaves of a tree, at most.
MOST_TREES, MOST_LEAVES = 100_000, 131_072
_TREE = re.compile(r"^Tree=\d+$", re.MULTILINE)
#: Where trees begin in the text, which the reader would jump to; without them it reads on.
_SIZES = re.compile(r"^tree_sizes=.*$\n?", re.MULTILINE)


def checked(text: str, columns: int) -> str:
    """The text as it may be loaded.

    Raises:
        DataError: it is no model of so many columns that LightGBM wrote.
    """
    text = _SIZES.sub("", text)
    head, *trees = _TREE.split(text)
    if not text.startswith("tree\n") or "end of trees" not in text:
        raise DataError("not a whole model of LightGBM")
    if f"\nmax_feature_idx={columns - 1}\n" not in head or "\nnum_class=1\n" not in head:
        raise DataError(f"not a model of one number of {columns} columns")
    if "\nnum_tree_per_iteration=1\n" not in head or len(trees) > MOST_TREES:
        raise DataError(f"{len(trees):,} trees, allowed: {MOST_TREES:,}")
    for number, tree in enumerate(trees):
        try:
            _check(dict(re.findall(r"^(\w+)=(.*)$", tree.split("end of trees")[0], re.MULTILINE)), columns)
        except (KeyError, ValueError, OverflowError) as error:
            raise DataError(f"tree {number} is broken: {error}") from None
    return text


def _check(tree: dict[str, str], columns: int) -> None:
    leaves, categories = int(tree["num_leaves"]), int(tree["num_cat"])
    if not 1 <= leaves <= MOST_LEAVES or not 0 <= categories < leaves or int(tree.get("is_linear", 0)):
        raise ValueError(f"{leaves} leaves, {categories} splits by category")
    if len(_numbers(tree, "leaf_value")) != leaves:
        raise ValueError("not a value for each leaf")
    if leaves == 1:
        return
    if len(_numbers(tree, "leaf_count")) != leaves:
        raise ValueError("not a count for each leaf")
    names = ("split_feature", "left_child", "right_child", "decision_type", "threshold")
    feature, left, right, decision, threshold = (_numbers(tree, name) for name in names)
    others = [_numbers(tree, name) for name in ("internal_value", "internal_count")]
    if {len(values) for values in (feature, left, right, decision, threshold, *others)} != {leaves - 1}:
        raise ValueError("not as many values as nodes")
    if (feature < 0).any() or (feature >= columns).any():
        raise ValueError("a column that is not there")
    for child in (left, right):
        behind = (child < 0) | (child > np.arange(leaves - 1))
        if (child < -leaves).any() or (child >= leaves - 1).any() or not behind.all():
            raise ValueError("a node that is not behind its parent")
    if categories or (decision.astype(int) & 1).any():
        begins = _numbers(tree, "cat_boundaries")
        by_category = threshold[decision.astype(int) & 1 == 1]
        whole = len(begins) == categories + 1 and begins[0] == 0 and (np.diff(begins) >= 0).all()
        if not whole or begins[-1] != len(_numbers(tree, "cat_threshold")):
            raise ValueError("categories that are not there")
        if (by_category < 0).any() or (by_category >= categories).any():
            raise ValueError("a set of categories that is not there")


def _numbers(tree: dict[str, str], name: str) -> np.ndarray:
    values = np.array(tree[name].split(), dtype=np.float64)
    if name != "threshold" and not np.isfinite(values).all():
        raise ValueError(f"{name} is not finite")
    return values
