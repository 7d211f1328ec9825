//! Landlock's calls. Semantics: [`crate::landlock`]; sources: landlock_create_ruleset(2), landlock_add_rule(2), landlock_restrict_self(2).

use super::Fd;
use crate::fs::{File, MountFlags, OpenFlags};
use crate::landlock::{self, Handled, Ruleset, right};
use crate::task::{Cred, Task, cap};
use crate::{Errno, Result};
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::Ordering::Relaxed;
use umbel_abi::linux::uapi as nr;
use umbel_mm::user::{self, UserAddr};

rows! {
    nr::__NR_landlock_create_ruleset, landlock_create_ruleset(attr: UserAddr, size: usize, flags: u32) => create_ruleset,
        Partial("version 6: nothing is logged");
    nr::__NR_landlock_add_rule, landlock_add_rule(ruleset: Fd, kind: u32, rule: UserAddr, flags: u32) => add_rule, Full;
    nr::__NR_landlock_restrict_self, landlock_restrict_self(ruleset: Fd, flags: u32) => restrict_self,
        Partial("version 6: nothing is logged");
}

/// `LANDLOCK_CREATE_RULESET_VERSION`.
const GET_VERSION: u32 = 1;
/// Bytes of `struct landlock_ruleset_attr`, now and at first.
const ATTR: usize = 24;
const ATTR_MIN: usize = 8;
const PAGE: usize = 4096;
/// `LANDLOCK_RULE_*`.
const PATH_BENEATH: u32 = 1;
const NET_PORT: u32 = 2;

fn create_ruleset(task: &Arc<Task>, attr: UserAddr, size: usize, flags: u32) -> Result<u64> {
    if flags != 0 {
        return if flags == GET_VERSION && attr.is_null() && size == 0 {
            Ok(landlock::VERSION)
        } else {
            Err(Errno::EINVAL)
        };
    }
    if attr.is_null() {
        return Err(Errno::EFAULT);
    }
    if size < ATTR_MIN {
        return Err(Errno::EINVAL);
    }
    if size > PAGE {
        return Err(Errno::E2BIG);
    }
    let mut bytes: Vec<u8> = user::read_vec(attr, size)?;
    if bytes.iter().skip(ATTR).any(|byte| *byte != 0) {
        return Err(Errno::E2BIG);
    }
    bytes.resize(ATTR, 0);
    let word = |at: usize, all: u32| {
        let value = bytes.get(at..).and_then(|rest| rest.first_chunk()).map_or(0, |bytes| u64::from_le_bytes(*bytes));
        if value & !u64::from(all) != 0 { Err(Errno::EINVAL) } else { Ok(value as u32) }
    };
    let handled = Handled {
        files: word(0, right::ALL)?,
        ports: word(8, landlock::BIND_TCP | landlock::CONNECT_TCP)?,
        scopes: word(16, landlock::ABSTRACT_UNIX | landlock::SIGNAL)?,
    };
    if handled == Handled::default() {
        return Err(Errno::ENOMSG);
    }
    super::ipc::install(task, Ruleset::open(handled), OpenFlags::CLOEXEC).map(|fd| fd.0 as u64)
}

fn ruleset(file: &File) -> Result<&Ruleset> {
    file.ops_as().ok_or(Errno::EBADFD)
}

fn add_rule(task: &Arc<Task>, fd: Fd, kind: u32, rule: UserAddr, flags: u32) -> Result<()> {
    if flags != 0 {
        return Err(Errno::EINVAL);
    }
    let file = task.files()?.get(fd)?;
    let ruleset = ruleset(&file)?;
    match kind {
        PATH_BENEATH => {
            // Packed: 8 bytes of rights, 4 of descriptor.
            let [low, high, parent]: [u32; 3] = user::read_val(rule)?;
            if low | high == 0 {
                return Err(Errno::ENOMSG);
            }
            if high != 0 || !ruleset.handles(low) {
                return Err(Errno::EINVAL);
            }
            let parent = task.files()?.get(Fd(parent as i32))?;
            let path = parent.path().filter(|path| !path.mount().flags().contains(MountFlags::INTERNAL));
            ruleset.allow_path(path.ok_or(Errno::EBADFD)?, low)
        }
        NET_PORT => {
            let [rights, port]: [u64; 2] = user::read_val(rule)?;
            if rights == 0 {
                return Err(Errno::ENOMSG);
            }
            ruleset.allow_port(port, u32::try_from(rights).map_err(|_| Errno::EINVAL)?)
        }
        _ => Err(Errno::EINVAL),
    }
}

fn restrict_self(task: &Arc<Task>, fd: Fd, flags: u32) -> Result<()> {
    if !task.no_new_privs.load(Relaxed) && !task.cred().capable_here(cap::SYS_ADMIN) {
        return Err(Errno::EPERM);
    }
    if flags != 0 {
        return Err(Errno::EINVAL);
    }
    let file = task.files()?.get(fd)?;
    let cred = task.cred();
    let sandbox = cred.sandbox.restrict(ruleset(&file)?)?;
    task.set_cred(Cred { sandbox, ..(*cred).clone() });
    Ok(())
}
