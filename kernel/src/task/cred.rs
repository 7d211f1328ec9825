//! Credentials: user and group ids, capabilities. Source: credentials(7), capabilities(7).

use super::ns::UserNs;
use super::ns::user::Which;
use crate::keys::own::Rings;
use crate::landlock::Sandbox;
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
    pub const CHECKPOINT_RESTORE: u32 = 40;
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
    /// Where the capabilities count, and ids are translated.
    pub user_ns: Arc<UserNs>,
    /// Its keyrings.
    pub keys: Rings,
    /// What it has forbidden itself.
    pub sandbox: Sandbox,
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
            user_ns: UserNs::first(),
            keys: Rings::default(),
            sandbox: Sandbox::default(),
        }
    }

    /// Whether capability `cap` is effective for the machine as a whole: in the first user namespace.
    pub fn capable(&self, cap: u32) -> bool {
        self.capable_here(cap) && self.user_ns.is_first()
    }

    /// Whether `uid` is root's in the user namespace.
    pub fn is_root(&self, uid: u32) -> bool {
        self.user_ns.take(Which::Users, 0) == Ok(uid)
    }

    /// What changed user ids do to capabilities. Source: capabilities(7), "Effect of user ID changes on capabilities".
    pub fn adjust_caps(&mut self, old: &Cred) {
        const KEEP_CAPS: u32 = 1 << 4;
        const NO_SETUID_FIXUP: u32 = 1 << 2;
        if self.securebits & NO_SETUID_FIXUP != 0 {
            return;
        }
        let had_root = [old.uid, old.euid, old.suid].iter().any(|&uid| self.is_root(uid));
        let has_root = [self.uid, self.euid, self.suid].iter().any(|&uid| self.is_root(uid));
        if had_root && !has_root {
            if self.securebits & KEEP_CAPS == 0 {
                self.permitted = 0;
            }
            self.effective = 0;
            self.ambient = 0;
        }
        if self.is_root(old.euid) && !self.is_root(self.euid) {
            self.effective = 0;
        }
        if !self.is_root(old.euid) && self.is_root(self.euid) {
            self.effective = self.permitted;
        }
        self.adjust_fs_caps(old);
    }

    /// What a changed file-system user id does to capabilities.
    pub fn adjust_fs_caps(&mut self, old: &Cred) {
        const FS: u64 = 1 << cap::CHOWN
            | 1 << cap::DAC_OVERRIDE
            | 1 << cap::DAC_READ_SEARCH
            | 1 << cap::FOWNER
            | 1 << cap::FSETID
            | 1 << cap::LINUX_IMMUTABLE
            | 1 << cap::MKNOD;
        if self.is_root(old.fsuid) && !self.is_root(self.fsuid) {
            self.effective &= !FS;
        }
        if !self.is_root(old.fsuid) && self.is_root(self.fsuid) {
            self.effective |= self.permitted & FS;
        }
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

    #[test]
    fn giving_up_root_gives_up_capabilities() {
        let old = Cred::new(0, 0);
        let mut effective_only = old.clone();
        (effective_only.euid, effective_only.fsuid) = (5, 5);
        effective_only.adjust_caps(&old);
        assert_eq!((effective_only.effective, effective_only.permitted), (0, cap::ALL));
        let mut all = old.clone();
        (all.uid, all.euid, all.suid, all.fsuid) = (5, 5, 5, 5);
        all.adjust_caps(&old);
        assert_eq!((all.effective, all.permitted), (0, 0));
    }
}
