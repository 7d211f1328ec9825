//! Names and files over a real directory of the host, as the guest's root has them.

use super::host::HostFs;
use super::tmpfs::TmpFs;
use super::walk::Follow;
use super::*;
use crate::task::Cred;
use crate::{Errno, Result};
use alloc::sync::Arc;
use alloc::vec::Vec;
use std::os::fd::AsRawFd;
use std::path::PathBuf;
use std::string::{String, ToString};
use umbel_host::file::HostFd;

/// A directory of the host with a few files, removed at the end, and a layered root over it.
struct World {
    lower: PathBuf,
    _root: std::fs::File,
    _tree: Arc<MountNamespace>,
    context: Arc<FsContext>,
    cred: Cred,
}

impl World {
    fn new(name: &str) -> World {
        umbel_mm::frame::init_for_tests(4096);
        let lower = std::env::temp_dir().join(std::format!("umbel-fs-{name}-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&lower);
        std::fs::create_dir_all(lower.join("etc/deep/er")).unwrap();
        std::fs::write(lower.join("etc/passwd"), "root\n").unwrap();
        std::fs::write(lower.join("etc/deep/er/file"), "deep\n").unwrap();
        std::os::unix::fs::symlink("etc/deep", lower.join("link")).unwrap();
        std::os::unix::fs::symlink("loop", lower.join("loop")).unwrap();
        let root = std::fs::File::open(&lower).unwrap();
        let host = HostFs::new(HostFd(root.as_raw_fd())).unwrap();
        let fs = TmpFs::layered(host.root_node()).unwrap();
        let mount = Mount::new(fs, b"overlay", MountFlags::empty());
        let path = mount.root_path().unwrap();
        let tree = MountNamespace::new(mount, 0, None);
        World { lower, _root: root, _tree: tree, context: FsContext::new(path.clone(), path), cred: Cred::new(0, 0) }
    }

    fn names(&self) -> Names<'_> {
        Names { context: &self.context, cred: &self.cred }
    }

    fn open(&self, name: &str, flags: OpenFlags) -> Result<Arc<File>> {
        self.names().open(&Name::new(name.as_bytes()), flags, 0o644, None)
    }

    fn read(&self, name: &str) -> Result<String> {
        let file = self.open(name, OpenFlags::RDONLY)?;
        let mut bytes = std::vec![0; 1 << 20];
        let count = file.read_kernel(&mut bytes, 0)?;
        Ok(String::from_utf8_lossy(&bytes[..count]).to_string())
    }

    fn write(&self, name: &str, flags: OpenFlags, text: &str) -> Result<usize> {
        let file = self.open(name, flags | OpenFlags::WRONLY)?;
        file.write(&mut IoSrc::kernel(text.as_bytes()))
    }

    fn list(&self, name: &str) -> Vec<String> {
        let file = self.open(name, OpenFlags::DIRECTORY).unwrap();
        let mut names = Vec::new();
        file.ops()
            .readdir(&file, 2, &mut |entry| {
                names.push(String::from_utf8_lossy(entry.name).to_string());
                true
            })
            .unwrap();
        names.sort();
        names
    }

    fn find(&self, name: &str, follow: Follow) -> Result<Path> {
        self.names().find(&Name::new(name.as_bytes()), follow)
    }

    /// Attributes as stat(2) asks for them, and whether they came without an inode.
    fn look(&self, name: &str) -> Result<(Attr, bool)> {
        Ok(match self.names().look(&Name::new(name.as_bytes()), Follow::Yes)? {
            walk::Sight::Path(path) => (path.attr()?, false),
            walk::Sight::Attr(dir, attr) => (dir.mount().shown(attr), true),
        })
    }

    fn mkdir(&self, name: &str) -> Result<()> {
        let node = self.names().node(Kind::Directory, 0o755);
        self.names().create(&Name::new(name.as_bytes()), &node).map(drop)
    }

    fn remove(&self, name: &str, removal: Removal) -> Result<()> {
        self.names().remove(&Name::new(name.as_bytes()), removal)
    }

    fn rename(&self, from: &str, to: &str) -> Result<()> {
        self.names().rename(&Name::new(from.as_bytes()), &Name::new(to.as_bytes()), Existing::Replace)
    }
}

impl Drop for World {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.lower);
    }
}

#[test]
fn walks_follow_links_and_dots() {
    let world = World::new("walk");
    assert_eq!(world.read("/etc/passwd").unwrap(), "root\n");
    assert_eq!(world.read("link/er/../er/./file").unwrap(), "deep\n");
    assert_eq!(world.read("/../../etc//passwd").unwrap(), "root\n");
    assert_eq!(world.read("loop").err(), Some(Errno::ELOOP));
    assert_eq!(world.read("etc/passwd/").err(), Some(Errno::ENOTDIR));
    assert_eq!(world.read("etc/passwd/x").err(), Some(Errno::ENOTDIR));
    assert_eq!(world.read("nothing/x").err(), Some(Errno::ENOENT));
    assert_eq!(world.read("").err(), Some(Errno::ENOENT));
    assert_eq!(world.read(&"x".repeat(256)).err(), Some(Errno::ENAMETOOLONG));
    assert_eq!(world.find("link", Follow::No).unwrap().inode().kind(), Kind::Symlink);
    assert!(world.find("link/", Follow::No).unwrap().is_dir());
    assert_eq!(world.find("link/er", Follow::Yes).unwrap().display(&world.context.root()), b"/etc/deep/er");
    assert_eq!(world.open("link", OpenFlags::NOFOLLOW).err(), Some(Errno::ELOOP));
}

#[test]
fn writes_stay_in_the_guest() {
    let world = World::new("write");
    world.write("etc/passwd", OpenFlags::APPEND, "more\n").unwrap();
    assert_eq!(world.read("etc/passwd").unwrap(), "root\nmore\n");
    assert_eq!(std::fs::read_to_string(world.lower.join("etc/passwd")).unwrap(), "root\n");
    world.write("etc/passwd", OpenFlags::TRUNC, "new").unwrap();
    assert_eq!(world.read("etc/passwd").unwrap(), "new");
    dcache::shrink();
    assert_eq!(world.read("etc/passwd").unwrap(), "new", "the change outlives the cache");
}

#[test]
fn an_open_file_sees_what_is_written_after_the_copy() {
    let world = World::new("copyup");
    let reader = world.open("etc/passwd", OpenFlags::RDONLY).unwrap();
    world.write("etc/passwd", OpenFlags::empty(), "ROOT").unwrap();
    let mut bytes = [0; 10];
    let count = reader.read_kernel(&mut bytes, 0).unwrap();
    assert_eq!(&bytes[..count], b"ROOT\n");
}

#[test]
fn creation_and_its_errors() {
    let world = World::new("create");
    let create = OpenFlags::CREAT;
    world.write("etc/new", create, "1").unwrap();
    assert_eq!(world.read("etc/new").unwrap(), "1");
    assert_eq!(world.write("etc/new", create | OpenFlags::EXCL, "").err(), Some(Errno::EEXIST));
    assert_eq!(world.write("etc/other/", create, "").err(), Some(Errno::EISDIR));
    assert_eq!(world.write("etc", OpenFlags::empty(), "").err(), Some(Errno::EISDIR));
    assert_eq!(world.mkdir("etc/passwd"), Err(Errno::EEXIST));
    assert_eq!(world.mkdir("no/where"), Err(Errno::ENOENT));
    world.mkdir("fresh/").unwrap();
    assert!(world.find("fresh", Follow::No).unwrap().is_dir());
}

#[test]
fn removed_names_stay_removed() {
    let world = World::new("remove");
    assert_eq!(world.remove("etc", Removal::File), Err(Errno::EISDIR));
    assert_eq!(world.remove("etc", Removal::Directory), Err(Errno::ENOTEMPTY));
    assert_eq!(world.remove("etc/passwd", Removal::Directory), Err(Errno::ENOTDIR));
    world.remove("etc/passwd", Removal::File).unwrap();
    dcache::shrink();
    assert_eq!(world.read("etc/passwd").err(), Some(Errno::ENOENT));
    assert_eq!(world.list("etc"), ["deep"]);
    world.remove("etc/deep/er/file", Removal::File).unwrap();
    world.remove("etc/deep/er", Removal::Directory).unwrap();
    world.remove("etc/deep", Removal::Directory).unwrap();
    world.remove("etc", Removal::Directory).unwrap();
    assert_eq!(world.list("/"), ["link", "loop"]);
    world.mkdir("etc").unwrap();
    assert!(world.list("etc").is_empty(), "a new directory does not show the old one's entries");
}

#[test]
fn directories_of_the_host_can_be_renamed() {
    let world = World::new("rename");
    world.rename("etc", "moved").unwrap();
    dcache::shrink();
    assert_eq!(world.read("moved/deep/er/file").unwrap(), "deep\n");
    assert_eq!(world.read("etc/passwd").err(), Some(Errno::ENOENT));
    assert_eq!(world.list("/"), ["link", "loop", "moved"]);
    assert_eq!(world.rename("moved", "moved/deep/x"), Err(Errno::EINVAL));
    assert_eq!(world.rename("moved/deep/er", "moved"), Err(Errno::ENOTEMPTY));
    assert_eq!(world.rename("moved/passwd", "moved/deep"), Err(Errno::EISDIR));
    world.rename("moved/passwd", "moved/deep/er/file").unwrap();
    assert_eq!(world.read("moved/deep/er/file").unwrap(), "root\n");
    assert_eq!(world.list("moved"), ["deep"]);
}

#[test]
fn hard_links_share_a_file() {
    let world = World::new("link");
    let target = world.find("etc/passwd", Follow::No).unwrap();
    world.names().link(&target, &Name::new(b"alias")).unwrap();
    world.write("alias", OpenFlags::APPEND, "x").unwrap();
    assert_eq!(world.read("etc/passwd").unwrap(), "root\nx");
    assert_eq!(target.attr().unwrap().nlink, 2);
    world.remove("etc/passwd", Removal::File).unwrap();
    assert_eq!(world.read("alias").unwrap(), "root\nx");
}

#[test]
fn holes_read_as_zero_and_cut_tails_do_not_come_back() {
    let world = World::new("holes");
    let file = world.open("f", OpenFlags::CREAT | OpenFlags::RDWR).unwrap();
    file.write_at(&mut IoSrc::kernel(b"end"), 100_000).unwrap();
    let mut bytes = std::vec![1; 100_003];
    assert_eq!(file.read_kernel(&mut bytes, 0).unwrap(), 100_003);
    assert!(bytes[..100_000].iter().all(|&byte| byte == 0));
    assert_eq!(&bytes[100_000..], b"end");
    assert_eq!(file.ops().seek(&file, Whence::Data, 0), Ok(98_304));
    file.write_at(&mut IoSrc::kernel(&[7; 5000]), 0).unwrap();
    file.ops().truncate(&file, 10).unwrap();
    file.ops().truncate(&file, 5000).unwrap();
    let mut bytes = [1; 5000];
    file.read_kernel(&mut bytes, 0).unwrap();
    assert_eq!(&bytes[..11], &[7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 0]);
    assert!(bytes[10..].iter().all(|&byte| byte == 0));
}

#[test]
fn mounts_cover_and_dots_leave_them() {
    let world = World::new("mount");
    let place = world.find("etc/deep", Follow::Yes).unwrap();
    let mount = Mount::new(TmpFs::new("tmpfs", 0o755, 16), b"tmpfs", MountFlags::empty());
    attach(&mount, place).unwrap();
    assert!(world.list("etc/deep").is_empty());
    world.write("etc/deep/f", OpenFlags::CREAT, "top").unwrap();
    assert_eq!(world.read("etc/deep/../passwd").unwrap(), "root\n");
    assert_eq!(world.remove("etc/deep", Removal::Directory), Err(Errno::EBUSY));
    let top = world.find("etc/deep/f", Follow::Yes).unwrap();
    assert_eq!(top.display(&world.context.root()), b"/etc/deep/f");
    assert_eq!(world.rename("etc/deep/f", "f"), Err(Errno::EXDEV));
    let full = world.write("etc/deep/f", OpenFlags::empty(), &"x".repeat(100 * 4096));
    assert_eq!(full, Ok(16 * 4096), "a file system takes what its limit allows");
    drop((mount, top));
    tree::detach(world.find("etc/deep", Follow::Yes).unwrap(), tree::Unmount::Idle).unwrap();
    assert_eq!(world.list("etc/deep"), ["er"]);
}

#[test]
fn ordinary_users_are_refused_what_modes_forbid() {
    let mut world = World::new("perm");
    world.mkdir("private").unwrap();
    let dir = world.find("private", Follow::No).unwrap();
    dir.inode().set_attr(&SetAttr { mode: Some(0o700), ..SetAttr::default() }).unwrap();
    world.cred = Cred::new(4321, 4321);
    assert_eq!(world.read("private/x").err(), Some(Errno::EACCES));
    assert_eq!(world.mkdir("private/x"), Err(Errno::EACCES));
    assert_eq!(world.write("private", OpenFlags::empty(), "").err(), Some(Errno::EISDIR));
}

#[test]
fn changes_on_the_host_are_noticed_after_a_while() {
    let world = World::new("stale");
    assert_eq!(world.read("etc/later").err(), Some(Errno::ENOENT));
    assert_eq!(world.read("etc/passwd").unwrap(), "root\n");
    std::fs::write(world.lower.join("etc/later"), "now").unwrap();
    std::fs::write(world.lower.join("etc/tmp"), "replaced").unwrap();
    std::fs::rename(world.lower.join("etc/tmp"), world.lower.join("etc/passwd")).unwrap();
    std::thread::sleep(std::time::Duration::from_millis(1100));
    assert_eq!(world.read("etc/later").unwrap(), "now");
    assert_eq!(world.read("etc/passwd").unwrap(), "replaced");
}

#[test]
fn a_look_shows_what_the_inode_does() {
    let world = World::new("look");
    std::fs::write(world.lower.join("etc/big"), [7; 5000]).unwrap();
    std::fs::hard_link(world.lower.join("etc/big"), world.lower.join("etc/other")).unwrap();
    let _socket = std::os::unix::net::UnixListener::bind(world.lower.join("etc/socket")).unwrap();
    // Other tests empty the cache of names, and a directory that is found anew knows nothing of looks at it.
    let _known = world.find("etc", Follow::No).unwrap();
    for name in ["etc/big", "etc/other", "etc/socket", "etc/passwd"] {
        let first = world.look(name).unwrap();
        assert!(first.1, "{name}: the first look makes no inode");
        let second = world.look(name).unwrap();
        assert!(!second.1, "{name}: the second one does");
        let found = world.find(name, Follow::No).unwrap().attr().unwrap();
        let shown = [first.0, second.0, found].map(|attr| std::format!("{attr:?}"));
        assert!(shown.iter().all(|attr| *attr == shown[0]), "{shown:?}");
    }
    for name in ["etc", "link", "link/er", "."] {
        assert!(!world.look(name).unwrap().1, "{name}");
    }
    assert_eq!(world.look("link").unwrap().0.kind, Kind::Directory);
    assert_eq!(world.look("nothing").err(), Some(Errno::ENOENT));
    assert_eq!(world.look("link/er/file/").err(), Some(Errno::ENOTDIR));
    assert_eq!(world.look("link/er/file/x").err(), Some(Errno::ENOTDIR));
}

#[test]
fn a_look_sees_what_the_guest_changed() {
    let world = World::new("look-changes");
    let passwd = world.look("etc/passwd").unwrap();
    world.write("etc/passwd", OpenFlags::APPEND, "more\n").unwrap();
    let attr = world.look("etc/passwd").unwrap().0;
    assert_eq!((attr.size, attr.ino), (passwd.0.size + 5, passwd.0.ino));
    let file = world.look("etc/deep/er/file").unwrap();
    assert!(file.1);
    world.rename("etc/deep/er/file", "etc/deep/moved").unwrap();
    assert_eq!(world.look("etc/deep/er/file").err(), Some(Errno::ENOENT));
    assert_eq!(world.look("etc/deep/moved").unwrap().0.ino, file.0.ino);
    world.write("etc/deep/er/file", OpenFlags::CREAT, "another").unwrap();
    let attr = world.look("etc/deep/er/file").unwrap().0;
    assert!(attr.size == 7 && attr.ino != file.0.ino);
}

#[test]
fn what_the_host_changes_is_seen_at_the_first_look() {
    let world = World::new("look-host");
    assert_eq!(world.look("etc/passwd").unwrap().0.size, 5);
    // Another name's answer takes the place of this one, or it grows old.
    std::thread::sleep(std::time::Duration::from_millis(1100));
    std::fs::write(world.lower.join("etc/passwd"), "longer than it was\n").unwrap();
    assert_eq!(world.look("etc/passwd").unwrap().0.size, 19);
    std::fs::remove_file(world.lower.join("etc/deep/er/file")).unwrap();
    assert_eq!(world.look("etc/deep/er/file").err(), Some(Errno::ENOENT));
}

#[test]
fn a_nameless_file_is_opened_again_as_it_says() {
    let world = World::new("anon");
    let memory = tmpfs::memory_file(b"x", &world.names(), 0o777, 1).unwrap();
    assert_eq!(memory.path().unwrap().display(&world.context.root()), b"/memfd:x (deleted)");
    let stream = File::anonymous(Arc::new(Stream), OpenFlags::WRONLY);
    let path = anon::path_of(&stream).unwrap();
    let again = world.names().open_path(path.clone(), OpenFlags::WRONLY, None).unwrap();
    assert!(Arc::ptr_eq(&stream, &again));
    assert_eq!(world.names().open_path(path, OpenFlags::RDONLY, None).err(), Some(Errno::EACCES));
    let other = File::anonymous(Arc::new(Stub), OpenFlags::RDWR);
    let path = anon::path_of(&other).unwrap();
    assert_eq!(world.names().open_path(path, OpenFlags::RDONLY, None).err(), Some(Errno::ENXIO));
}

/// As one of the machine's own streams, it can be open once only.
struct Stream;

impl FileOps for Stream {
    fn as_any(&self) -> &dyn core::any::Any {
        self
    }

    fn reopen(&self, file: &Arc<File>, flags: OpenFlags) -> Result<Arc<File>> {
        anon::same(file, flags)
    }
}

/// Operations that do nothing.
struct Stub;

impl FileOps for Stub {
    fn as_any(&self) -> &dyn core::any::Any {
        self
    }
}
