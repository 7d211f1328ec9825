//! A network namespace: its devices, its ports and connections, its sockets, the abstract names of AF_UNIX.
//!
//! Every socket belongs to the namespace of the task that made it, for life. Locks: those of its parts, leaves all.

use super::counters::{Counters, Tcp};
use super::inet::table::{Table, TcpTable};
use super::inet::tcp::TcpSocket;
use super::link::{Links, Traffic};
use super::packet::PacketSocket;
use super::socket::Socket;
use super::sysctl::Settings;
use super::uapi::{AF_INET, AF_INET6};
use crate::ipc::unix;
use crate::task::ns::UserNs;
use crate::task::{Task, cap};
use alloc::collections::BTreeMap;
use alloc::sync::{Arc, Weak};
use alloc::vec::Vec;
use core::sync::atomic::{AtomicU64, Ordering::*};
use umbel_smp::lock::{Once, Rank, SpinGuard, SpinLock};

/// Namespaces that have gone.
static GONE: AtomicU64 = AtomicU64::new(0);

/// See the module.
pub struct Namespace {
    /// Number of the namespace in the file system of namespaces (`/proc/PID/ns/net`).
    pub id: u64,
    /// Its devices, addresses and routes: see [`Self::links`].
    links: SpinLock<Links>,
    /// How many namespaces were gone when `links` were last looked through for ends of links to them.
    gone: AtomicU64,
    pub settings: Settings,
    pub counters: Counters,
    pub tcp: SpinLock<TcpTable>,
    pub udp: SpinLock<Table>,
    pub udp_lite: SpinLock<Table>,
    pub ping: SpinLock<Table>,
    pub raw: SpinLock<Table>,
    pub packet: SpinLock<Vec<Weak<PacketSocket>>>,
    /// Abstract names.
    pub unix_names: SpinLock<BTreeMap<Vec<u8>, Weak<unix::Socket>>>,
    /// All open sockets, by their number.
    sockets: SpinLock<BTreeMap<u64, Weak<dyn Socket>>>,
}

impl Namespace {
    /// A namespace whose device is down, as clone(2) makes one.
    pub fn new() -> Arc<Namespace> {
        Namespace::with(Links::down(), crate::fs::next_ino())
    }

    fn with(links: Links, id: u64) -> Arc<Namespace> {
        Arc::new(Namespace {
            id,
            links: SpinLock::new(Rank::Leaf, links),
            gone: AtomicU64::new(0),
            settings: Settings::default(),
            counters: Counters::default(),
            tcp: SpinLock::new(Rank::Endpoint, TcpTable::default()),
            udp: SpinLock::new(Rank::Endpoint, Table::default()),
            udp_lite: SpinLock::new(Rank::Endpoint, Table::default()),
            ping: SpinLock::new(Rank::Endpoint, Table::default()),
            raw: SpinLock::new(Rank::Endpoint, Table::default()),
            packet: SpinLock::new(Rank::Endpoint, Vec::new()),
            unix_names: SpinLock::new(Rank::Endpoint, BTreeMap::new()),
            sockets: SpinLock::new(Rank::Endpoint, BTreeMap::new()),
        })
    }

    /// Its devices. Those that led to a namespace that is gone have gone with it.
    pub fn links(&self) -> SpinGuard<'_, Links> {
        let mut links = self.links.lock();
        let gone = GONE.load(Acquire);
        if self.gone.load(Relaxed) != gone {
            self.gone.store(gone, Relaxed);
            links.remove_orphans();
        }
        links
    }

    /// Whether `task` may change devices and routes here: as an administrator of its own namespace, or, by a socket that it has brought
    /// from another one, of the machine.
    pub fn is_administered_by(&self, task: &Task) -> bool {
        if core::ptr::eq(Arc::as_ptr(&task.ns().net.ns), self) {
            return task.net_capable(cap::NET_ADMIN);
        }
        task.cred().capable_in(&UserNs::first(), cap::NET_ADMIN)
    }

    /// Lists a new socket.
    pub fn register(&self, socket: &Arc<dyn Socket>) {
        self.sockets.lock().insert(socket.common().id, Arc::downgrade(socket));
    }

    /// A socket is closed.
    pub fn forget(&self, id: u64) {
        self.sockets.lock().remove(&id);
    }

    /// What connections have sent through the loopback device, whether they are over or not, by family.
    fn streams(&self) -> [Traffic; 2] {
        let closed =
            |packets, bytes| Traffic { packets: self.counters.of_tcp(packets), bytes: self.counters.of_tcp(bytes) };
        let mut all = [closed(Tcp::Segments, Tcp::Bytes), closed(Tcp::Segments6, Tcp::Bytes6)];
        for family in [AF_INET, AF_INET6] {
            self.each_socket(family, |socket| {
                if let Some(tcp) = socket.as_any().downcast_ref::<TcpSocket>() {
                    let (v6, sent) = tcp.traffic();
                    all[usize::from(v6)].add(sent);
                }
            });
        }
        all
    }

    /// What went through the loopback device, by family: datagrams, and what connections have sent.
    pub fn traffic(&self) -> [Traffic; 2] {
        let mut all = self.streams();
        if let Some(lo) = self.links().loopback() {
            all[0].add(lo.received[0]);
            all[1].add(lo.received[1]);
        }
        all
    }

    /// Segments of TCP, of both families.
    pub fn segments(&self) -> u64 {
        let [v4, v6] = self.streams();
        v4.packets + v6.packets
    }

    /// What went through the loopback device.
    pub fn all_traffic(&self) -> Traffic {
        let [mut all, v6] = self.traffic();
        all.add(v6);
        all
    }

    /// Calls `look` with each open socket of a family, in the order in which they were made. Takes no memory: there may be many, and little left.
    pub fn each_socket(&self, family: u16, mut look: impl FnMut(&Arc<dyn Socket>)) {
        /// Sockets that are taken out of the list at once.
        const STEP: usize = 16;
        let mut next = 0;
        loop {
            let mut some: [Option<Weak<dyn Socket>>; STEP] = [const { None }; STEP];
            {
                let sockets = self.sockets.lock();
                for (slot, (id, socket)) in some.iter_mut().zip(sockets.range(next..)) {
                    *slot = Some(socket.clone());
                    next = id + 1;
                }
            }
            let full = some.iter().all(Option::is_some);
            for socket in some.iter().flatten().filter_map(Weak::upgrade) {
                if socket.common().family() == family {
                    look(&socket);
                }
            }
            if !full {
                return;
            }
        }
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        GONE.fetch_add(1, Release);
    }
}

/// The namespace that the machine boots with: its device is up.
pub fn initial() -> &'static Arc<Namespace> {
    static INITIAL: Once<Arc<Namespace>> = Once::new();
    INITIAL.call_once(|| Namespace::with(Links::up(), INITIAL_ID))
}

/// `PROC_NET_INIT_INO`.
const INITIAL_ID: u64 = 0xf000_0098;

/// The namespace of a task.
pub fn of(task: &Task) -> Arc<Namespace> {
    task.ns().net.ns.clone()
}
