//! What is said when the guest kernel panicked: its message and a backtrace with names.

use object::{Object, ObjectSymbol, SymbolKind};
use rustc_demangle::demangle;
use std::fmt::Write as _;

/// Exit status of a machine whose kernel panicked.
pub const STATUS_PANIC: u8 = 70;

/// One line a return address: number, address, function and offset. `image` is the kernel's ELF.
pub fn backtrace(image: &[u8], addresses: &[u64]) -> String {
    let mut symbols: Vec<(u64, String)> = object::File::parse(image)
        .map(|file| {
            file.symbols()
                .filter(|symbol| symbol.kind() == SymbolKind::Text)
                .filter_map(|symbol| Some((symbol.address(), symbol.name().ok()?.to_owned())))
                .collect()
        })
        .unwrap_or_default();
    symbols.sort();
    let mut text = String::new();
    for (number, address) in addresses.iter().enumerate() {
        // A return address belongs to the call before it.
        let below = symbols.partition_point(|(start, _)| *start < *address);
        let name = match below.checked_sub(1).map(|index| &symbols[index]) {
            Some((start, name)) => format!("{:#}+{:#x}", demangle(name), address - start),
            None => "?".into(),
        };
        // Writing to a String does not fail.
        let _ = writeln!(text, "  {number:>2}: {address:#014x} {name}");
    }
    text
}
