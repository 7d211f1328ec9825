//! Devices are made, changed, moved to another namespace and removed. One change at a time in the machine, as two namespaces may be
//! concerned; who looks at devices sees each step whole.
//!
//! Locks: [`CHANGE`] (sleeping, rank SleepLeaf) around all of it; each namespace's links one after the other.

use super::super::namespace::Namespace;
use super::super::netlink;
use super::{Device, IFF_UP, Kind, LOOPBACK, Name};
use crate::{Errno, Result};
use alloc::sync::{Arc, Weak};
use alloc::vec::Vec;
use umbel_smp::lock::{Mutex, MutexGuard, Rank};

static CHANGE: Mutex<()> = Mutex::new(Rank::SleepLeaf, ());

/// What a program asks for; what it does not name stays.
#[derive(Default)]
pub struct Wanted {
    pub name: Option<Name>,
    pub mac: Option<[u8; 6]>,
    pub mtu: Option<u32>,
    pub queue: Option<u32>,
    pub group: Option<u32>,
    pub alias: Option<Vec<u8>>,
    /// `IFF_*`, and which of them count.
    pub flags: u32,
    pub mask: u32,
}

impl Wanted {
    fn check(&self, kind: &Kind) -> Result<()> {
        let (least, most) = kind.mtu_bounds();
        if self.mtu.is_some_and(|mtu| mtu > i32::MAX as u32 || mtu < least || most > 0 && mtu > most) {
            return Err(Errno::EINVAL);
        }
        if self.mac.is_some_and(|mac| matches!(kind, Kind::Loopback) || mac[0] & 1 != 0 || mac == [0; 6]) {
            return Err(if matches!(kind, Kind::Loopback) { Errno::EOPNOTSUPP } else { Errno::EADDRNOTAVAIL });
        }
        Ok(())
    }

    /// Sets what needs nothing but the device.
    fn apply(self, device: &mut Device) {
        device.mtu = self.mtu.unwrap_or(device.mtu);
        device.mac = self.mac.unwrap_or(device.mac);
        device.queue = self.queue.unwrap_or(device.queue);
        device.group = self.group.unwrap_or(device.group);
        device.alias = self.alias.unwrap_or(core::mem::take(&mut device.alias));
        device.set_flags(self.flags, self.mask);
    }
}

/// Keeps others from changing devices.
pub fn alone() -> MutexGuard<'static, ()> {
    CHANGE.lock()
}

/// Changes a device, and tells who listens.
///
/// # Errors
/// `ENODEV`, `EINVAL`, `EEXIST`, `EOPNOTSUPP`, `ENOBUFS`.
pub fn set(namespace: &Namespace, index: u32, wanted: Wanted) -> Result<()> {
    let _alone = alone();
    set_alone(namespace, index, wanted)
}

fn set_alone(namespace: &Namespace, index: u32, wanted: Wanted) -> Result<()> {
    let (up, counts) = (wanted.flags & IFF_UP != 0, wanted.mask & IFF_UP != 0);
    // Another name for people.
    let named = wanted.alias.is_some();
    let looks = || namespace.links().device(index).map(looks);
    let before = looks();
    {
        let mut links = namespace.links();
        wanted.check(&links.device(index).ok_or(Errno::ENODEV)?.kind)?;
        let name = match &wanted.name {
            Some(name) if links.device(index).is_some_and(|device| device.name == *name) => None,
            Some(name) => Some(links.free_name(name.text())?),
            None => None,
        };
        let device = links.device_mut(index)?;
        if let Some(name) = name {
            let old = core::mem::replace(&mut device.name, name);
            for own in device.addresses.iter_mut().filter(|own| own.label == old) {
                own.label = name;
            }
        }
        wanted.apply(device);
    }
    if counts {
        set_up(namespace, index, up)?;
    }
    if named || looks() != before {
        netlink::announce_link(namespace, index);
    }
    Ok(())
}

/// What others are told of when it changes.
fn looks(device: &Device) -> (Name, [u8; 6], [u32; 4]) {
    (device.name, device.mac, [device.mtu, device.queue, device.group, device.flags()])
}

/// Takes a device up or down; the other end of its link notices.
fn set_up(namespace: &Namespace, index: u32, up: bool) -> Result<()> {
    namespace.links().set_up(index, up)?;
    let Some((peer, far)) = other_end(namespace, index) else { return Ok(()) };
    let far_up = {
        let mut links = peer.links();
        links.set_carrier(far, up)?;
        links.device(far).is_some_and(|device| device.up)
    };
    namespace.links().set_carrier(index, far_up)?;
    netlink::announce_link(&peer, far);
    Ok(())
}

/// The other end of a pair.
pub fn other_end(namespace: &Namespace, index: u32) -> Option<(Arc<Namespace>, u32)> {
    let links = namespace.links();
    match &links.device(index)?.kind {
        Kind::Veth { peer, index } => Some((peer.upgrade()?, *index)),
        _ => None,
    }
}

/// A device that is to be made, and where.
pub struct New<'a> {
    pub namespace: &'a Arc<Namespace>,
    /// A name, or a pattern of names; 0 = any index.
    pub name: &'a [u8],
    pub index: u32,
    pub wanted: Wanted,
}

impl New<'_> {
    /// Puts it there. It is not up yet.
    fn place(&mut self, kind: Kind) -> Result<u32> {
        let device = Device { index: self.index, ..Device::new(Name::default(), kind) };
        let mut links = self.namespace.links();
        if self.index != 0 && links.device(self.index).is_some() {
            return Err(Errno::EEXIST);
        }
        let name = links.free_name(self.name)?;
        let mut device = Device { name, ..device };
        self.wanted.name = None;
        let wanted = core::mem::take(&mut self.wanted);
        wanted.check(&device.kind)?;
        (self.wanted.flags, self.wanted.mask) = (wanted.flags, wanted.mask);
        wanted.apply(&mut device);
        links.add(device)
    }

    /// It is whole: takes it up, if that is wanted.
    fn finish(&mut self, index: u32) -> Result<()> {
        if self.wanted.flags & self.wanted.mask & IFF_UP != 0 {
            set_up(self.namespace, index, true)?;
        }
        netlink::announce_link(self.namespace, index);
        Ok(())
    }
}

/// Makes a `dummy` device.
///
/// # Errors
/// `EEXIST`, `EINVAL`, `ENOBUFS`.
pub fn make_dummy(mut new: New<'_>) -> Result<()> {
    let _alone = alone();
    super::super::room()?;
    let index = new.place(Kind::Dummy)?;
    new.finish(index)
}

/// Makes a pair: both ends, or none.
///
/// # Errors
/// `EEXIST`, `EINVAL`, `ENOBUFS`.
pub fn make_pair(mut new: New<'_>, mut far: New<'_>) -> Result<()> {
    let _alone = alone();
    super::super::room()?;
    let veth = |namespace: &Arc<Namespace>, index| Kind::Veth { peer: Arc::downgrade(namespace), index };
    let far_index = far.place(veth(new.namespace, 0))?;
    let index = match new.place(veth(far.namespace, far_index)) {
        Ok(index) => index,
        Err(error) => {
            let _ = far.namespace.links().remove(far_index);
            return Err(error);
        }
    };
    if let Ok(device) = far.namespace.links().device_mut(far_index) {
        device.kind = veth(new.namespace, index);
    }
    for (namespace, index) in [(far.namespace, far_index), (new.namespace, index)] {
        if let Ok(device) = namespace.links().device_mut(index) {
            device.carrier = false;
        }
    }
    far.finish(far_index)?;
    new.finish(index)
}

/// Removes a device, with the other end of its link.
///
/// # Errors
/// `ENODEV`, `EOPNOTSUPP` for the loopback device.
pub fn remove(namespace: &Namespace, index: u32) -> Result<()> {
    let _alone = alone();
    if namespace.links().device(index).ok_or(Errno::ENODEV)?.is_loopback() {
        return Err(Errno::EOPNOTSUPP);
    }
    let far = other_end(namespace, index);
    netlink::announce_link_gone(namespace, index);
    namespace.links().remove(index)?;
    if let Some((peer, index)) = far {
        netlink::announce_link_gone(&peer, index);
        // It may have gone with its namespace.
        let _ = peer.links().remove(index);
    }
    Ok(())
}

/// Moves a device to another namespace, where it is down and without addresses; then changes it.
///
/// # Errors
/// `ENODEV`, `EINVAL` for the loopback device, `EEXIST`, `ENOBUFS`.
pub fn relocate(namespace: &Arc<Namespace>, index: u32, to: &Arc<Namespace>, mut wanted: Wanted) -> Result<()> {
    let _alone = alone();
    if Arc::ptr_eq(namespace, to) {
        return set_alone(namespace, index, wanted);
    }
    let name = {
        let links = namespace.links();
        let device = links.device(index).ok_or(Errno::ENODEV)?;
        if device.index == LOOPBACK {
            return Err(Errno::EINVAL);
        }
        wanted.name.take().unwrap_or(device.name)
    };
    let name = {
        let mut links = to.links();
        links.reserve(1)?;
        links.free_name(name.text())?
    };
    set_up(namespace, index, false)?;
    netlink::announce_link_gone(namespace, index);
    let mut device = namespace.links().remove(index)?;
    device.name = name;
    let far = match &device.kind {
        Kind::Veth { peer, index } => Some((peer.clone(), *index)),
        _ => None,
    };
    // There is room: nobody else adds devices.
    let index = to.links().add(device)?;
    if let Some((peer, far)) = far {
        meet(&peer, far, (to, index));
    }
    netlink::announce_link(to, index);
    set_alone(to, index, wanted)
}

/// Tells an end of a pair where the other one is now.
fn meet(peer: &Weak<Namespace>, index: u32, (to, far): (&Arc<Namespace>, u32)) {
    if let Some(peer) = peer.upgrade()
        && let Ok(device) = peer.links().device_mut(index)
    {
        device.kind = Kind::Veth { peer: Arc::downgrade(to), index: far };
    }
}
