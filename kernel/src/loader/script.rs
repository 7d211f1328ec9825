//! `#!` lines: pure. Source: execve(2), "Interpreter scripts".

/// Bytes of a file that are looked at.
pub const LINE_MAX: usize = 256;
/// Most scripts that may interpret scripts.
pub const DEPTH_MAX: usize = 4;

/// Interpreter and its optional argument, from the first bytes of a file; `None` if this is no usable script.
pub fn parse(head: &[u8]) -> Option<(&[u8], Option<&[u8]>)> {
    let line = head.get(..LINE_MAX.min(head.len()))?.strip_prefix(b"#!")?;
    let end = line.iter().position(|&byte| byte == b'\n');
    let cut = end.is_none() && head.len() >= LINE_MAX;
    let line = trim(line.get(..end.unwrap_or(line.len()))?);
    let line = line.split(|&byte| byte == 0).next()?;
    let name_end = line.iter().position(|byte| is_blank(*byte));
    let name = line.get(..name_end.unwrap_or(line.len()))?;
    // A name that the buffer cuts off must not run something else; a cut argument is passed cut.
    if name.is_empty() || (cut && name_end.is_none()) {
        return None;
    }
    let rest = trim(line.get(name.len()..)?);
    Some((name, (!rest.is_empty()).then_some(rest)))
}

fn trim(mut line: &[u8]) -> &[u8] {
    while let [first, rest @ ..] = line {
        if !is_blank(*first) {
            break;
        }
        line = rest;
    }
    while let [rest @ .., last] = line {
        if !is_blank(*last) {
            break;
        }
        line = rest;
    }
    line
}

fn is_blank(byte: u8) -> bool {
    byte == b' ' || byte == b'\t'
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_a_name_and_at_most_one_argument() {
        assert_eq!(parse(b"#!/bin/sh\n"), Some((&b"/bin/sh"[..], None)));
        assert_eq!(parse(b"#! /bin/awk  -f x \nrest"), Some((&b"/bin/awk"[..], Some(&b"-f x"[..]))));
        assert_eq!(parse(b"#!/bin/sh"), Some((&b"/bin/sh"[..], None)));
    }

    #[test]
    fn what_is_no_script_is_refused() {
        assert_eq!(parse(b"#! \n"), None);
        assert_eq!(parse(b"#"), None);
        assert_eq!(parse(b""), None);
        assert_eq!(parse(&[b"#!/".as_slice(), &[b'a'; 300]].concat()), None);
        assert!(parse(&[b"#!/a ".as_slice(), &[b'a'; 300]].concat()).is_some());
    }
}
