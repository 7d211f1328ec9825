//! Whole spaces on the host: no slots, so nothing is mapped, but areas, page tables and frames are the real ones.

use super::map::Place;
use super::remap::Move;
use super::*;
use alloc::sync::Arc;
use alloc::vec::Vec;
use std::sync::Mutex;
use umbel_abi::linux::{Errno, uapi};
use umbel_mm::{PAGE, UserAddr, frame};

/// Tests that count frames must not run side by side.
static ALONE: Mutex<()> = Mutex::new(());

const RW: Prot = Prot::READ.union(Prot::WRITE);

fn setup() -> (std::sync::MutexGuard<'static, ()>, Arc<Space>) {
    let guard = ALONE.lock().unwrap_or_else(|poison| poison.into_inner());
    frame::init_for_tests(8192);
    (guard, Space::new().unwrap())
}

fn anon(space: &Space, pages: u64, prot: Prot) -> UserAddr {
    let (place, flags, backing) = (Place::Anywhere, VmaFlags::empty(), Backing::Anonymous);
    space.map(MapRequest { addr: UserAddr::NULL, len: pages * PAGE, place, prot, flags, backing }).unwrap()
}

fn read(space: &Space, addr: UserAddr, len: usize) -> Vec<u8> {
    let mut bytes = std::vec![0xaa; len];
    assert_eq!(space.read_remote(addr, &mut bytes), Ok(len));
    bytes
}

fn used() -> u64 {
    let usage = frame::usage();
    usage.total - usage.free
}

#[test]
fn anonymous_memory_reads_as_zero_and_keeps_what_is_written() {
    let (_guard, space) = setup();
    let addr = anon(&space, 40, RW);
    assert_eq!(read(&space, addr, 5000), [0; 5000]);
    let bytes: Vec<u8> = (0..9000).map(|n| n as u8).collect();
    space.write_remote(addr.add(100), &bytes).unwrap();
    assert_eq!(read(&space, addr.add(100), 9000), bytes);
    assert_eq!(read(&space, addr, 100), [0; 100]);
}

#[test]
fn a_fault_allocates_a_run_and_the_next_one_a_longer_run() {
    let (_guard, space) = setup();
    let addr = anon(&space, 512, RW);
    space.handle_fault(addr.0, Access::Write, Origin::Guest).unwrap();
    let first = space.usage().resident / PAGE;
    assert!((1..=16).contains(&first));
    space.handle_fault(addr.0 + first * PAGE, Access::Write, Origin::Guest).unwrap();
    assert!(space.usage().resident / PAGE > first);
}

#[test]
fn faults_respect_areas_and_protection() {
    let (_guard, space) = setup();
    let addr = anon(&space, 2, Prot::READ);
    assert_eq!(space.handle_fault(addr.0, Access::Read, Origin::Guest), Ok(()));
    assert_eq!(space.handle_fault(addr.0, Access::Write, Origin::Guest), Err(Fault::Segv(fault::SEGV_ACCERR)));
    assert_eq!(space.handle_fault(addr.0, Access::Exec, Origin::Guest), Err(Fault::Segv(fault::SEGV_ACCERR)));
    assert_eq!(
        space.handle_fault(addr.0 + 2 * PAGE, Access::Read, Origin::Guest),
        Err(Fault::Segv(fault::SEGV_MAPERR))
    );
    space.protect(addr, PAGE, Prot::empty()).unwrap();
    assert_eq!(space.handle_fault(addr.0, Access::Read, Origin::Guest), Err(Fault::Segv(fault::SEGV_ACCERR)));
}

#[test]
fn a_fork_shares_until_one_side_writes() {
    let (_guard, parent) = setup();
    let addr = anon(&parent, 8, RW);
    parent.write_remote(addr, b"before").unwrap();
    let before = used();
    let child = parent.fork().unwrap();
    assert_eq!(used(), before, "a fork copies no page");
    assert_eq!(read(&child, addr, 6), b"before");
    child.write_remote(addr, b"child!").unwrap();
    assert_eq!(read(&parent, addr, 6), b"before");
    parent.write_remote(addr.add(PAGE), b"parent").unwrap();
    assert_eq!(read(&child, addr.add(PAGE), 6), [0; 6]);
    drop(child);
    let now = used();
    parent.write_remote(addr.add(2 * PAGE), b"x").unwrap();
    assert_eq!(used(), now, "the last owner writes in place");
}

#[test]
fn what_was_written_after_one_fork_is_copied_at_the_next() {
    let (_guard, parent) = setup();
    let addr = anon(&parent, 8, RW);
    parent.write_remote(addr, b"before").unwrap();
    let first = parent.fork().unwrap();
    parent.write_remote(addr, b"parent").unwrap();
    assert_eq!(read(&first, addr, 6), b"before");
    let before = used();
    let second = parent.fork().unwrap();
    assert!(used() > before, "copied ahead");
    parent.write_remote(addr, b"later!").unwrap();
    assert_eq!(read(&second, addr, 6), b"parent");
    second.write_remote(addr, b"second").unwrap();
    assert_eq!((read(&parent, addr, 6), read(&first, addr, 6)), (b"later!".to_vec(), b"before".to_vec()));
    let held = (parent.clone(), parent.clone());
    let now = used();
    let third = parent.fork().unwrap();
    assert_eq!(used(), now, "while somebody else has the space, all pages are taken at one instant");
    parent.write_remote(addr, b"fourth").unwrap();
    assert_eq!(read(&third, addr, 6), b"later!");
    drop((held, first, second, third));
    assert_eq!(read(&parent, addr, 6), b"fourth");
}

#[test]
fn frames_come_back_when_areas_and_spaces_end() {
    let (_guard, space) = setup();
    let start = used();
    let addr = anon(&space, 64, RW);
    space.write_remote(addr, &[1; 64 * PAGE as usize]).unwrap();
    assert_eq!(used(), start + 64);
    space.unmap(addr.add(10 * PAGE), 20 * PAGE).unwrap();
    assert_eq!(used(), start + 44);
    assert_eq!(space.read_remote(addr.add(10 * PAGE), &mut [0]), Err(Errno::EFAULT));
    let child = space.fork().unwrap();
    drop(space);
    assert_eq!(used(), start + 44);
    drop(child);
    assert_eq!(used(), start);
}

#[test]
fn shared_memory_is_shared_after_a_fork() {
    let (_guard, parent) = setup();
    let backing = Backing::File { object: SharedMemory::new(4 * PAGE).unwrap(), offset: 0, file: None };
    let (place, flags) = (Place::Anywhere, VmaFlags::SHARED | VmaFlags::MAYWRITE);
    let addr = parent.map(MapRequest { addr: UserAddr::NULL, len: 4 * PAGE, place, prot: RW, flags, backing }).unwrap();
    let child = parent.fork().unwrap();
    child.write_remote(addr.add(PAGE), b"hello").unwrap();
    assert_eq!(read(&parent, addr.add(PAGE), 5), b"hello");
    parent.write_remote(addr.add(PAGE), b"world").unwrap();
    assert_eq!(read(&child, addr.add(PAGE), 5), b"world");
}

#[test]
fn discarded_pages_read_as_zero() {
    let (_guard, space) = setup();
    let addr = anon(&space, 4, RW);
    space.write_remote(addr, &[7; 4 * PAGE as usize]).unwrap();
    space.advise(addr.add(PAGE), 2 * PAGE, uapi::MADV_DONTNEED).unwrap();
    assert_eq!(read(&space, addr.add(PAGE), 2), [0, 0]);
    assert_eq!(read(&space, addr, 1), [7]);
    assert_eq!(read(&space, addr.add(3 * PAGE), 1), [7]);
    assert_eq!(space.advise(addr, 5 * PAGE, uapi::MADV_DONTNEED), Err(Errno::ENOMEM));
}

#[test]
fn a_moved_area_keeps_its_bytes() {
    let (_guard, space) = setup();
    let addr = anon(&space, 4, RW);
    let block = anon(&space, 1, Prot::READ);
    assert!(block < addr);
    space.write_remote(addr.add(PAGE), b"moved").unwrap();
    let to = space.remap(addr, 4 * PAGE, 4096 * PAGE, Move::May, false).unwrap();
    assert_eq!(read(&space, to.add(PAGE), 5), b"moved");
    if to != addr {
        assert_eq!(space.read_remote(addr, &mut [0]), Err(Errno::EFAULT));
    }
    let low = UserAddr(0x2000_0000);
    space.remap(to, 4 * PAGE, 2 * PAGE, Move::To(low), false).unwrap();
    assert_eq!(read(&space, low.add(PAGE), 5), b"moved");
    assert_eq!(space.read_remote(to, &mut [0]), Err(Errno::EFAULT));
    assert_eq!(space.read_remote(low.add(2 * PAGE), &mut [0]), Err(Errno::EFAULT));
}

#[test]
fn the_heap_grows_and_shrinks() {
    let (_guard, space) = setup();
    space.set_brk(UserAddr(0x1000_0800));
    let start = space.brk(UserAddr::NULL);
    assert_eq!(start, UserAddr(0x1000_0800));
    assert_eq!(space.brk(start.add(10_000)), start.add(10_000));
    space.write_remote(UserAddr(0x1000_1000), b"heap").unwrap();
    assert_eq!(space.brk(start.add(100)), start.add(100));
    assert_eq!(space.read_remote(UserAddr(0x1000_1000), &mut [0]), Err(Errno::EFAULT));
    anon(&space, 1, RW);
    assert_eq!(space.brk(UserAddr(1 << 60)), start.add(100), "what cannot be leaves it where it is");
}

#[test]
fn a_stack_grows_down_within_its_limit_only() {
    let (_guard, space) = setup();
    let top = 0x5000_0000;
    let (place, flags, backing) = (Place::Fixed, VmaFlags::GROWSDOWN, Backing::Anonymous);
    let addr = UserAddr(top - 4 * PAGE);
    space.map(MapRequest { addr, len: 4 * PAGE, place, prot: RW, flags, backing }).unwrap();
    assert_eq!(space.handle_fault(top - 64 * PAGE, Access::Write, Origin::Guest), Ok(()));
    let beyond = top - (8 << 20) - PAGE;
    assert_eq!(space.handle_fault(beyond, Access::Write, Origin::Guest), Err(Fault::Segv(fault::SEGV_MAPERR)));
}

#[test]
fn exhaustion_is_an_error_and_the_space_lives_on() {
    let (_guard, space) = setup();
    // More than there is, but no area that is refused for its size.
    let areas = [0; 4].map(|_| anon(&space, 3000, RW));
    let mut pages = areas.iter().flat_map(|area| (0..3000).map(|page| area.0 + page * PAGE));
    let error = pages.find_map(|addr| space.handle_fault(addr, Access::Write, Origin::Guest).err());
    assert_eq!(error, Some(Fault::Oom));
    assert_eq!(frame::usage().free, 0);
    areas.iter().for_each(|area| space.unmap(*area, 3000 * PAGE).unwrap());
    let addr = anon(&space, 1, RW);
    assert_eq!(space.handle_fault(addr.0, Access::Write, Origin::Guest), Ok(()));
}
