//! Where the machines of a user that compete tell each other what they get: a file beside those of [`registry`], under a lock.
//!
//! Whoever comes first when it is time decides for all; each machine does itself what was decided about it. What machines
//! wrote that were stopped or killed is forgotten after a second.

use super::rule::{self, Contender, Given};
use crate::manage::registry;
use serde::{Deserialize, Serialize};
use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, Write};
use std::os::unix::fs::OpenOptionsExt;

/// Between two decisions at least.
const DECIDE_NS: u64 = 15_000_000;
/// What is older counts no more.
const OLD_NS: u64 = 1_000_000_000;

/// Machines of another version may leave fields out.
#[derive(Serialize, Deserialize, Default)]
#[serde(default)]
struct Board {
    decided_ns: u64,
    given: Given,
    contenders: Vec<Contender>,
}

/// Tells the others who of this machine competes, and returns where they shall be. `None` if another machine is at it just now, or
/// the file cannot be used.
pub fn exchange(own: Vec<Contender>, now_ns: u64) -> Option<Vec<Contender>> {
    let path = registry::directory().ok()?.join("contenders");
    let mut file =
        OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(path).ok()?;
    file.try_lock().ok()?;
    let mut text = Vec::new();
    file.read_to_end(&mut text).ok()?;
    let mut board: Board = serde_json::from_slice(&text).unwrap_or_default();
    board.update(own, now_ns);
    save(&mut file, &board).ok()?;
    let owner = std::process::id() as i32;
    Some(board.contenders.into_iter().filter(|one| one.owner == owner).collect())
}

fn save(file: &mut File, board: &Board) -> io::Result<()> {
    let text = serde_json::to_vec(board)?;
    file.rewind()?;
    file.write_all(&text)?;
    file.set_len(text.len() as u64)
}

impl Board {
    /// `own` are all contenders of this process.
    fn update(&mut self, mut own: Vec<Contender>, now_ns: u64) {
        let owner = std::process::id() as i32;
        for one in &mut own {
            if let Some(old) = self.contenders.iter().find(|old| old.owner == owner && old.cpu == one.cpu) {
                (one.counted_ns, one.lead_ns) = (old.counted_ns, old.lead_ns);
                (one.home, one.next_home) = (old.home, old.next_home);
            }
        }
        self.contenders.retain(|one| one.owner != owner && now_ns.abs_diff(one.seen_ns) < OLD_NS);
        self.contenders.extend(own);
        let elapsed_ns = now_ns.abs_diff(self.decided_ns);
        if elapsed_ns >= DECIDE_NS {
            self.decided_ns = now_ns;
            rule::decide(&mut self.contenders, &mut self.given, elapsed_ns);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn contender(owner: i32, cpu: u32, seen_ns: u64) -> Contender {
        let (allowed, at) = (vec![3], 0);
        Contender {
            owner,
            cpu,
            allowed,
            at,
            ran_ns: 0,
            counted_ns: 0,
            seen_ns,
            lead_ns: 0,
            home: None,
            next_home: None,
        }
    }

    #[test]
    fn a_board_without_what_came_later_is_understood() {
        let board: Board = serde_json::from_str(r#"{"decided_ns":7,"contenders":[]}"#).expect("a board");
        assert_eq!(board.decided_ns, 7);
    }

    #[test]
    fn the_dead_are_forgotten_and_own_leads_kept() {
        let me = std::process::id() as i32;
        let contenders = vec![contender(-1, 0, 5 * OLD_NS), contender(-2, 0, 0), contender(me, 7, 5 * OLD_NS)];
        let mut board = Board { contenders, ..Board::default() };
        let own = |now| vec![contender(me, 0, now), contender(me, 1, now)];
        board.update(own(5 * OLD_NS), 5 * OLD_NS);
        let who = |board: &Board| board.contenders.iter().map(|one| (one.owner, one.cpu)).collect::<Vec<_>>();
        assert_eq!(who(&board), [(-1, 0), (me, 0), (me, 1)]);
        assert!(board.contenders.iter().all(|one| one.home.is_some()));
        board.contenders[1].lead_ns = 77;
        board.update(own(5 * OLD_NS + 1), 5 * OLD_NS + 1);
        assert_eq!(board.contenders[1].lead_ns, 77);
        // The other machine is gone: nobody competes.
        board.update(own(7 * OLD_NS), 7 * OLD_NS);
        assert_eq!(who(&board), [(me, 0), (me, 1)]);
        assert!(board.contenders.iter().all(|one| one.home.is_none()));
    }
}
