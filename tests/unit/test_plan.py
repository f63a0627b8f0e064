# SPDX-License-Identifier: GPL-2.0-or-later
"""The decisions: every prefix of a start, then a start again, loses nothing."""


from hypothesis import given
from hypothesis import strategies as st

from nfslock import nsm, plan
from nfslock.owner import Owner
from tests.unit.records import line, names

Lines = "dict[tuple[str, str], bytes]"
keys = st.tuples(names, st.sampled_from(["node-a", "node-b"]))
records = st.lists(keys, max_size=5, unique=True).map(
    lambda found: {key: line(*key) for key in found})
HERE = plan.Wanted("svc", "node-a", "boot-a", 1000)
THERE = plan.Wanted("svc", "node-b", "boot-b", 2000)


def by_file(lines: "dict[tuple[str, str], bytes]") -> "dict[str, dict[tuple[str, str], bytes]]":
    files: dict[str, dict[tuple[str, str], bytes]] = {}
    for key, data in lines.items():
        files.setdefault(key[0], {})[key] = data
    return files


def apply(seen: plan.Observed, step: plan.Step) -> plan.Observed:
    """What a node looks like after one step, as the adapters do it."""
    what: object = step.what
    if step.name == "create":
        return seen._replace(exists=True)
    if step.name == "claim":
        assert isinstance(what, Owner)
        assert seen.owner is None or what.generation > seen.owner.generation
        return seen._replace(owner=what)
    if step.name == "write_state":
        assert isinstance(what, int)
        return seen._replace(state=what)
    if step.name == "seed":
        assert isinstance(what, dict)
        return seen._replace(held={**seen.held, **what})
    if step.name == "enlist":
        assert isinstance(what, frozenset)
        assert what <= seen.held.keys()  # a link needs the record it links to
        return seen._replace(pending=seen.pending | what)
    if step.name == "merge":
        assert isinstance(what, dict)
        merged = plan.merges(seen.local, what)
        return seen._replace(local={**seen.local, **{
            name: nsm.parse_record(data) for name, data in merged.items()}})
    return seen


def lines_of(files: "dict[str, bytes]") -> "set[tuple[str, str]]":
    return {key for data in files.values() for key in nsm.parse_record(data)}


@given(held=records, local=records, elsewhere=records, state=st.none() | st.just(7),
       prefix=st.integers(0, 10), move=st.booleans())
def test_any_prefix_then_a_start_anywhere(held, local, elsewhere, state, prefix, move) -> None:  # type: ignore[no-untyped-def]
    before = plan.Observed(
        exists=True, owner=Owner("svc", "node-b", "boot-b", 4, 5), state=state,
        held=nsm.by_client([held]), local=by_file(local))
    seen = before
    for step in plan.start(seen, HERE)[:prefix]:
        seen = apply(seen, step)
    killed = seen
    if move:
        seen = seen._replace(local=by_file(elsewhere))
    steps = plan.start(seen, THERE if move else HERE)
    for step in steps:
        seen = apply(seen, step)
    here = elsewhere if move else local
    assert lines_of(dict(seen.held)) >= held.keys() | here.keys()
    assert seen.pending == seen.held.keys()
    assert lines_of(dict(seen.held)) <= {
        key for lines in seen.local.values() for key in lines}
    assert seen.owner is not None
    assert seen.owner.generation > (killed.owner.generation if killed.owner else 0) >= 4
    assert seen.state is not None
    assert seen.state % 2 == 1
    assert seen.state > max(killed.state or 0, 5)


@given(held=records, local=records)
def test_merging_never_changes_a_line_of_this_kernel(held, local) -> None:  # type: ignore[no-untyped-def]
    files = by_file({key: line(*key, cookie=2) for key in local})
    merged = plan.merges(files, nsm.by_client([held]))
    for name, data in merged.items():
        for key, text in nsm.parse_record(data).items():
            assert key[0] == name
            if key in local:
                assert text == line(*key, cookie=2)


def test_the_order_of_a_start() -> None:
    steps = [step.name for step in plan.start(plan.Observed(), HERE)]
    assert steps == ["create", "claim", "write_state", "seed", "enlist", "hold_off_sm_notify",
                     "stop_statd", "stop_nfsd", "merge", "start_propagator",
                     "await_propagator", "start_statd", "start_nfsd"]


def test_nobody_new_is_told_while_the_server_still_has_the_locks() -> None:
    held = {"10.0.0.1": line("10.0.0.1", "v"), "10.0.0.2": line("10.0.0.2", "v")}
    seen = plan.Observed(exists=True, held=held, pending=frozenset({"10.0.0.2"}))
    due = [step.what for now in (seen, seen._replace(standing=True))
           for step in plan.start(now, HERE) if step.name == "enlist"]
    assert due == [frozenset({"10.0.0.1"}), frozenset()]


def test_the_nodes_own_number_counts_only_at_first() -> None:
    first = plan.start(plan.Observed(node_state=41), HERE)
    assert next(step.what for step in first if step.name == "write_state") == 43
    later = plan.start(plan.Observed(state=7, node_state=99999), HERE)
    assert next(step.what for step in later if step.name == "write_state") == 9


def test_deletions_wait_for_patience_in_a_settled_service() -> None:
    absent = {"old": 100.0, "new": 195.0}
    assert plan.deletions(absent, 200.0, 10.0, None) == []
    assert plan.deletions(absent, 200.0, 10.0, 195.0) == []
    assert plan.deletions(absent, 200.0, 10.0, 50.0) == ["old"]


@given(local=records, held=records)
def test_additions_keep_every_line_of_both(local, held) -> None:  # type: ignore[no-untyped-def]
    ours, theirs = nsm.by_client([local]), nsm.by_client([held])
    after = {**theirs, **plan.additions(ours, theirs)}
    assert lines_of(after) == local.keys() | held.keys()
    assert plan.additions(ours, after) == {}
