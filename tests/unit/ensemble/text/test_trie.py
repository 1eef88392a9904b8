"""The trie against loops over the strings."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from ensemw2s.ensemble.text.trie import ByteTrie

STRINGS = st.lists(
    st.lists(st.sampled_from([0, 97, 98, 255]), min_size=1, max_size=5).map(bytes), min_size=1, max_size=25
).map(sorted)


def prefixes(trie: ByteTrie, strings: list[bytes]) -> list[bytes]:
    """The prefix every node stands for, by walking down from the root."""
    names = [b""] * len(trie.low)
    for node in range(len(names)):
        for child in range(trie.first_child[node], trie.last_child[node]):
            names[child] = names[node] + bytes([trie.byte[child]])
    return names


@given(STRINGS)
def test_nodes_are_all_prefixes_with_their_ranges(strings: list[bytes]) -> None:
    trie = ByteTrie(strings)
    names = prefixes(trie, strings)
    assert sorted(names) == sorted({string[:length] for string in strings for length in range(len(string) + 1)})
    for node, name in enumerate(names):
        assert strings[trie.low[node] : trie.high[node]] == [string for string in strings if string.startswith(name)]
        if node:
            assert strings[trie.low[node] : trie.middle[node]] == [string for string in strings if string == name]


@given(STRINGS, st.integers(0, 255))
def test_child_of_each_node(strings: list[bytes], byte: int) -> None:
    trie = ByteTrie(strings)
    names = prefixes(trie, strings)
    for probe in (byte, 97):
        found = trie.child(np.arange(len(names)), probe)
        expected = [names.index(n + bytes([probe])) if n + bytes([probe]) in names else -1 for n in names]
        assert found.tolist() == expected


@given(STRINGS, st.randoms(use_true_random=False))
def test_masses_lose_nothing_small_beside_large(strings: list[bytes], random: object) -> None:
    trie = ByteTrie(strings)
    names = prefixes(trie, strings)
    nodes = np.array([random.randrange(len(names)) for _ in range(4)])  # type: ignore[attr-defined]
    probs = np.array([[10.0 ** -random.randrange(200) for _ in strings] for _ in nodes])  # type: ignore[attr-defined]
    branches = trie.branches(probs, nodes)
    expected = []
    for row, node in enumerate(nodes):
        for child in range(trie.first_child[node], trie.last_child[node]):
            mass = sum(p for p, string in zip(probs[row], strings, strict=True) if string.startswith(names[child]))
            expected.append((row, child, mass))
    assert list(zip(branches.row.tolist(), branches.child.tolist(), strict=True)) == [(r, c) for r, c, _ in expected]
    np.testing.assert_allclose(branches.mass, [mass for _, _, mass in expected], rtol=1e-12)
    sums = trie.masses(probs, trie.middle[nodes], trie.high[nodes])
    below = [sum(mass for r, _, mass in expected if r == row) for row in range(len(nodes))]
    np.testing.assert_allclose(sums, below, rtol=1e-12)
