//! Credentials: user and group ids, capabilities. Source: credentials(7), capabilities(7).

use alloc::sync::Arc;

/// Capability numbers.
pub mod cap {
    pub const CHOWN: u32 = 0;
    pub const DAC_OVERRIDE: u32 = 1;
    pub const DAC_READ_SEARCH: u32 = 2;
    pub const FOWNER: u32 = 3;
    pub const FSETID: u32 = 4;
    pub const KILL: u32 = 5;
    pub const SETGID: u32 = 6;
    pub const SETUID: u32 = 7;
    pub const SETPCAP: u32 = 8;
    pub const LINUX_IMMUTABLE: u32 = 9;
    pub const NET_BIND_SERVICE: u32 = 10;
    pub const NET_ADMIN: u32 = 12;
    pub const NET_RAW: u32 = 13;
    pub const IPC_LOCK: u32 = 14;
    pub const IPC_OWNER: u32 = 15;
    pub const SYS_MODULE: u32 = 16;
    pub const SYS_RAWIO: u32 = 17;
    pub const SYS_CHROOT: u32 = 18;
    pub const SYS_PTRACE: u32 = 19;
    pub const SYS_PACCT: u32 = 20;
    pub const SYS_ADMIN: u32 = 21;
    pub const SYS_BOOT: u32 = 22;
    pub const SYS_NICE: u32 = 23;
    pub const SYS_RESOURCE: u32 = 24;
    pub const SYS_TIME: u32 = 25;
    pub const SYS_TTY_CONFIG: u32 = 26;
    pub const MKNOD: u32 = 27;
    pub const LEASE: u32 = 28;
    pub const SETFCAP: u32 = 31;
    pub const SYSLOG: u32 = 34;
    pub const WAKE_ALARM: u32 = 35;
    /// Highest number in use.
    pub const LAST: u32 = 40;
    /// All of them.
    pub const ALL: u64 = (1 << (LAST + 1)) - 1;
}

/// Who a thread is. Immutable; changed by replacing the whole (`task.set_cred`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cred {
    pub uid: u32,
    pub euid: u32,
    pub suid: u32,
    pub fsuid: u32,
    pub gid: u32,
    pub egid: u32,
    pub sgid: u32,
    pub fsgid: u32,
    /// Supplementary groups, sorted.
    pub groups: Arc<[u32]>,
    /// Capability sets, bit n = capability n.
    pub permitted: u64,
    pub effective: u64,
    pub inheritable: u64,
    pub ambient: u64,
    pub bounding: u64,
    /// `PR_SET_SECUREBITS`.
    pub securebits: u32,
}

impl Cred {
    /// A user with all capabilities if it is root, none otherwise.
    pub fn new(uid: u32, gid: u32) -> Cred {
        let caps = if uid == 0 { cap::ALL } else { 0 };
        Cred {
            uid,
            euid: uid,
            suid: uid,
            fsuid: uid,
            gid,
            egid: gid,
            sgid: gid,
            fsgid: gid,
            groups: Arc::new([]),
            permitted: caps,
            effective: caps,
            inheritable: 0,
            ambient: 0,
            bounding: cap::ALL,
            securebits: 0,
        }
    }

    /// Whether capability `cap` is effective.
    pub fn capable(&self, cap: u32) -> bool {
        self.effective >> cap & 1 != 0
    }

    /// Whether `gid` is the file-system group or a supplementary one.
    pub fn in_group(&self, gid: u32) -> bool {
        self.fsgid == gid || self.groups.binary_search(&gid).is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn root_is_capable_and_others_are_not() {
        assert!(Cred::new(0, 0).capable(cap::SYS_ADMIN));
        assert!(!Cred::new(1000, 1000).capable(cap::CHOWN));
    }
}
