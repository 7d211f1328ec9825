//! Who may have a page mapped: nobody, one slot, or several.
//!
//! Whoever maps a page in a slot says so here first ([`Holders::claim`]), under the lock under which it found the page in
//! the page table. Whoever takes pages away that only its own slot may have mapped ([`Holders::only`]) need tell nobody: it
//! unmaps them in its slot, then looks again, as somebody may have claimed them meanwhile, and takes them out of the table
//! under the same lock. All others append to the update log and shoot down. A claim is never taken back as long as there is a
//! page: a slot that has dropped its mappings counts as if it had them.
//!
//! Used by the kernel's page tables, one in each entry. Plain data, protected by the page table's lock.
//! Model: `loom-tests/tests/holders.rs`.

use umbel_smp::lock::SpinLock;
use umbel_smp::sync::mutant;

/// See the module. 0 = nobody, [`SEVERAL`], else the slot's number plus one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Holders(u16);

const SEVERAL: u16 = u16::MAX;

impl Holders {
    /// As [`Self::bits`] gave it.
    pub fn from_bits(bits: u16) -> Holders {
        Holders(bits)
    }

    /// To be kept in an entry; 0 = nobody.
    pub fn bits(self) -> u16 {
        self.0
    }

    /// `slot` is about to map the page.
    #[must_use]
    pub fn claim(self, slot: usize) -> Holders {
        let slot = number(slot);
        match self.0 {
            _ if mutant("holders-unclaimed") => self,
            0 => Holders(slot),
            same if same == slot => self,
            _ => Holders(SEVERAL),
        }
    }

    /// Whether no slot but `slot` may have the page mapped.
    pub fn only(self, slot: usize) -> bool {
        self.0 == 0 || (self.0 != SEVERAL && self.0 == number(slot))
    }
}

fn number(slot: usize) -> u16 {
    u16::try_from(slot).map_or(SEVERAL, |slot| slot.saturating_add(1))
}

/// Takes pages away if `only` says that no slot but the current one may have them mapped: `unmap`s them there, then `take`s
/// them out of the table. `None` if it does not say so, or not any more.
pub fn take_alone<T, R>(
    table: &SpinLock<T>,
    only: impl Fn(&T) -> bool,
    unmap: impl FnOnce(),
    take: impl FnOnce(&mut T) -> R,
) -> Option<R> {
    if !only(&table.lock()) {
        return None;
    }
    unmap();
    let mut table = table.lock();
    (only(&table) || mutant("holders-not-asked-again")).then(|| take(&mut table))
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn the_second_slot_that_claims_makes_it_several() {
        let nobody = Holders::default();
        assert!(nobody.only(3) && nobody.only(4));
        let one = nobody.claim(3).claim(3);
        assert!(one.only(3) && !one.only(4));
        let both = Holders::from_bits(one.claim(4).bits());
        assert!(!both.only(3) && !both.only(4) && !both.claim(4).only(4));
    }

    #[test]
    fn a_number_that_does_not_fit_is_several() {
        for slot in [usize::MAX, 1 << 16, usize::from(SEVERAL), usize::from(SEVERAL) - 1] {
            assert!(!Holders::default().claim(slot).only(slot));
        }
    }
}
