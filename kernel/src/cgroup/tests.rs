//! Control groups without processes: the tree, its sums, names and limits.

use super::*;

fn group(parent: &Arc<Cgroup>, name: &str) -> Arc<Cgroup> {
    parent.make_child(&mut Table::new(), name.as_bytes(), fs::Node::new(0o755, 0, 0)).unwrap()
}

/// A root of its own.
fn tree() -> Arc<Cgroup> {
    Cgroup::build(None, b"", fs::Node::new(0o555, 0, 0))
}

#[test]
fn groups_are_populated_as_far_up_as_they_have_members() {
    let root = tree();
    let a = group(&root, "a");
    let (b, c) = (group(&a, "b"), group(&a, "c"));
    let told = || [&a, &b, &c].map(|group| group.events.take());
    b.add_members(1);
    assert_eq!(([&a, &b, &c].map(|group| group.is_populated()), told()), ([true, true, false], [true, true, false]));
    c.add_members(2);
    assert_eq!(told(), [false, false, true]);
    b.take_members(1);
    assert_eq!((a.is_populated(), told()), (true, [false, true, false]));
    c.take_members(2);
    assert_eq!((a.is_populated(), told()), (false, [true, false, true]));
}

#[test]
fn names_are_relative_to_a_namespace() {
    let root = tree();
    let a = group(&root, "a");
    let (b, c) = (group(&a, "b"), group(&a, "c"));
    assert_eq!(b.path_from(&root), b"/a/b");
    assert_eq!(b.path_from(&b), b"/");
    assert_eq!(b.path_from(&a), b"/b");
    assert_eq!(b.path_from(&c), b"/../b");
    assert_eq!(root.path_from(&c), b"/../..");
}

#[test]
fn limits_of_the_tree_hold_and_removed_groups_are_dead() {
    let (mut table, root) = (Table::new(), tree());
    let a = group(&root, "a");
    a.max_descendants.store(1, Relaxed);
    let b = group(&a, "b");
    let refused =
        |parent: &Arc<Cgroup>, table: &mut Table| parent.make_child(table, b"c", fs::Node::new(0o755, 0, 0)).err();
    assert_eq!(refused(&a, &mut table), Some(Errno::EAGAIN));
    assert_eq!(refused(&b, &mut table), Some(Errno::EAGAIN));
    assert_eq!(root.remove_child(&mut table, b"a").err(), Some(Errno::EBUSY));
    assert!(a.remove_child(&mut table, b"b").is_ok());
    assert_eq!((refused(&b, &mut table), a.dying.load(Relaxed)), (Some(Errno::ENOENT), 1));
    drop(b);
    assert_eq!((a.descendants.load(Relaxed), a.dying.load(Relaxed)), (0, 0));
}

#[test]
fn walks_meet_every_group_once_parents_first() {
    let root = tree();
    let a = group(&root, "a");
    let (b, c) = (group(&a, "b"), group(&a, "c"));
    let (d, e) = (group(&b, "d"), group(&root, "e"));
    let met: Vec<u64> = root.subtree().map(|group| group.id).collect();
    assert_eq!(met, [&root, &a, &b, &d, &c, &e].map(|group| group.id));
    assert_eq!(b.subtree().count(), 2);
}

#[test]
fn limits_of_threads_hold_upwards_and_are_counted_where_they_are() {
    let (mut table, root) = (Table::new(), tree());
    root.pass_on(&mut table, Controllers::PIDS, Controllers::empty()).unwrap();
    let a = group(&root, "a");
    a.pass_on(&mut table, Controllers::PIDS, Controllers::empty()).unwrap();
    let b = group(&a, "b");
    a.pids.set_max(2).unwrap();
    for _ in 0..2 {
        pids::check(&mut table, &b).unwrap();
        pids::charge(&b, 1);
    }
    assert_eq!(pids::check(&mut table, &b), Err(Errno::EAGAIN));
    assert_eq!([&a, &b].map(|group| group.pids.refused(false)), [1, 0]);
    assert_eq!([&a, &b].map(|group| group.pids.peak()), [2, 3]);
    pids::uncharge(&b, 1);
    b.pids.set_max(1).unwrap();
    assert!(!pids::has_room(&b) && pids::check(&mut table, &b) == Err(Errno::EAGAIN));
    assert_eq!([&a, &b].map(|group| (group.pids.refused(false), group.pids.refused(true))), [(2, 1), (1, 1)]);
}

#[test]
fn controllers_come_from_above_and_go_only_when_unused() {
    let (mut table, root) = (Table::new(), tree());
    let (none, pids) = (Controllers::empty(), Controllers::PIDS);
    let a = group(&root, "a");
    assert_eq!(a.pass_on(&mut table, pids, none), Err(Errno::ENOENT));
    assert_eq!(root.pass_on(&mut table, pids, none), Ok(()));
    assert_eq!(a.pass_on(&mut table, pids, none), Ok(()));
    assert_eq!(root.pass_on(&mut table, none, pids), Err(Errno::EBUSY));
    // Both members and a populated child with controllers: no.
    group(&a, "b").add_members(1);
    assert_eq!(a.check_entry(), Err(Errno::EBUSY));
}

#[test]
fn a_group_is_frozen_when_all_below_it_rest() {
    let root = tree();
    let a = group(&root, "a");
    let b = group(&a, "b");
    b.add_members(1);
    a.freezer.wanted.store(true, Relaxed);
    a.subtree().for_each(|group| freezer::update(&group));
    assert!(!a.freezer.is_frozen() && !b.freezer.is_frozen());
    b.freezer.resting.store(1, Relaxed);
    freezer::update(&b);
    assert!(a.freezer.is_frozen() && b.freezer.is_frozen() && !root.freezer.is_frozen());
}
