//! Tables of typed bytes against what is read, echoed and signalled.

use super::*;

struct Session {
    discipline: Discipline,
    effects: Effects,
}

impl Session {
    fn new(change: impl FnOnce(&mut uapi::termios2)) -> Self {
        let mut termios = Termios::standard();
        change(&mut termios.0);
        Self { discipline: Discipline::new(termios), effects: Effects::default() }
    }

    fn type_bytes(mut self, bytes: &[u8]) -> Self {
        self.discipline.input(bytes, &mut self.effects);
        self
    }

    fn echoed(&self) -> &[u8] {
        &self.effects.echo
    }

    fn read(&mut self, max: usize) -> Option<Vec<u8>> {
        self.discipline.read(max)
    }
}

fn standard(bytes: &[u8]) -> Session {
    Session::new(|_| ()).type_bytes(bytes)
}

#[test]
fn lines_are_edited_and_echoed_as_linux_does() {
    // Typed, echo, what a read gets. Obtained from a pseudo-terminal on Linux 6.18.
    let table: [(&[u8], &[u8], &[u8]); 14] = [
        (b"abc\n", b"abc\r\n", b"abc\n"),
        (b"abc\r", b"abc\r\n", b"abc\n"),
        (b"abx\x7fc\n", b"abx\x08 \x08c\r\n", b"abc\n"),
        (b"\x7f\n", b"\r\n", b"\n"),
        (b"a\x01\x7f\n", b"a^A\x08 \x08\x08 \x08\r\n", b"a\n"),
        (b"a\tb\x7f\x7f\n", b"a\tb\x08 \x08\x08\x08\x08\x08\x08\x08\x08\r\n", b"a\n"),
        (b"xy\x15z\n", b"xy\x08 \x08\x08 \x08z\r\n", b"z\n"),
        (b"ab cd\x17e\n", b"ab cd\x08 \x08\x08 \x08e\r\n", b"ab e\n"),
        (b"ab cd  \x17\n", b"ab cd  \x08 \x08\x08 \x08\x08 \x08\x08 \x08\r\n", b"ab \n"),
        (b"a\x16\x03b\n", b"a^\x08^Cb\r\n", b"a\x03b\n"),
        (b"ab\x12c\n", b"ab^R\r\nabc\r\n", b"abc\n"),
        (b"ab\x04", b"ab", b"ab"),
        (b"\x1bOA\n", b"^[OA\r\n", b"\x1bOA\n"),
        (b"\x04", b"", b""),
    ];
    for (typed, echo, read) in table {
        let mut session = standard(typed);
        assert_eq!(session.echoed(), echo, "echo of {typed:?}");
        assert_eq!(session.read(100).as_deref(), Some(read), "input of {typed:?}");
        assert_eq!(session.read(100), None, "rest of {typed:?}");
    }
}

#[test]
fn signal_keys_flush_and_are_echoed() {
    let session = standard(b"ab\x03");
    assert_eq!(session.effects.keys, [Key::Interrupt]);
    assert!(session.effects.flush_output);
    assert!(!session.discipline.has_input());
    assert!(session.echoed().ends_with(b"^C"));
    let session = standard(b"\x1c\x1a");
    assert_eq!(session.effects.keys, [Key::Quit, Key::Suspend]);
    let mut session = Session::new(|t| t.c_lflag |= uapi::NOFLSH).type_bytes(b"ab\x03c\n");
    assert_eq!(session.read(10).as_deref(), Some(&b"abc\n"[..]));
    assert!(!session.effects.flush_output);
}

#[test]
fn a_read_gets_one_line_and_parts_of_it() {
    let mut session = standard(b"one\ntwo\nthr");
    assert_eq!(session.discipline.readable(), 8);
    assert_eq!(session.read(2).as_deref(), Some(&b"on"[..]));
    assert_eq!(session.read(10).as_deref(), Some(&b"e\n"[..]));
    assert_eq!(session.read(10).as_deref(), Some(&b"two\n"[..]));
    assert_eq!(session.read(10), None);
}

#[test]
fn an_eof_after_data_pushes_and_an_eof_alone_ends() {
    let mut session = standard(b"abc\x04\x04");
    assert_eq!(session.read(3).as_deref(), Some(&b"abc"[..]));
    assert_eq!(session.read(3).as_deref(), Some(&b""[..]));
    assert_eq!(session.read(3), None);
}

#[test]
fn raw_mode_gives_bytes_as_they_come() {
    let mut session = Session::new(|t| {
        t.c_lflag &= !(uapi::ICANON | uapi::ECHO | uapi::ISIG | uapi::IEXTEN);
        t.c_iflag = 0;
    })
    .type_bytes(b"a\x03\r\x7f\xff");
    assert_eq!(session.echoed(), b"");
    assert_eq!(session.effects.keys, []);
    assert_eq!(session.read(2).as_deref(), Some(&b"a\x03"[..]));
    assert_eq!(session.read(9).as_deref(), Some(&b"\r\x7f\xff"[..]));
}

#[test]
fn poll_waits_for_vmin_unless_a_timer_runs() {
    let raw = |min: u8, time: u8| {
        Session::new(|t| {
            t.c_lflag &= !uapi::ICANON;
            t.c_cc[uapi::VMIN as usize] = min;
            t.c_cc[uapi::VTIME as usize] = time;
        })
        .type_bytes(b"ab")
        .discipline
        .is_pollable()
    };
    assert!(!raw(3, 0));
    assert!(raw(2, 0));
    assert!(raw(3, 1));
    assert!(raw(0, 0));
}

#[test]
fn switching_modes_keeps_what_was_typed() {
    let mut session = standard(b"par");
    assert!(!session.discipline.has_input());
    let mut raw = *session.discipline.termios();
    raw.0.c_lflag &= !uapi::ICANON;
    session.discipline.set_termios(raw);
    assert!(session.discipline.has_input());
    session.discipline.set_termios(Termios::standard());
    assert_eq!(session.read(10).as_deref(), Some(&b"par"[..]));
}

#[test]
fn a_line_without_end_stops_growing_and_can_still_be_ended() {
    let mut session = standard(&[b'x'; 5000]).type_bytes(b"\n");
    assert_eq!(session.echoed().len(), INPUT_MAX - 1 + 2);
    assert_eq!(session.read(9000).map(|line| line.len()), Some(INPUT_MAX));
}

#[test]
fn stop_and_start_hold_output_and_are_not_input() {
    let session = standard(b"\x13");
    assert!(session.discipline.is_stopped());
    let mut session = session.type_bytes(b"\x11a\n");
    assert!(!session.discipline.is_stopped());
    assert_eq!(session.read(9).as_deref(), Some(&b"a\n"[..]));
    let any = Session::new(|t| t.c_iflag |= uapi::IXANY).type_bytes(b"\x13a");
    assert!(!any.discipline.is_stopped());
}

#[test]
fn output_flags_translate() {
    // Output flags, written, what the terminal gets.
    let table: [(u32, &[u8], &[u8]); 7] = [
        (0, b"a\nb\r\t", b"a\nb\r\t"),
        (uapi::OPOST, b"a\nb", b"a\nb"),
        (uapi::OPOST | uapi::ONLCR, b"a\n\n", b"a\r\n\r\n"),
        (uapi::OPOST | uapi::OCRNL, b"a\rb", b"a\nb"),
        (uapi::OPOST | uapi::ONOCR, b"\ra\r\r", b"a\r"),
        (uapi::OPOST | uapi::XTABS, b"ab\tc", b"ab      c"),
        (uapi::OPOST | uapi::OLCUC, b"aZ", b"AZ"),
    ];
    for (flags, written, shown) in table {
        let mut session = Session::new(|t| t.c_oflag = flags);
        let mut out = Vec::new();
        session.discipline.process(written, &mut out);
        assert_eq!(out, shown, "{flags:o} {written:?}");
    }
}

#[test]
fn input_flags_translate() {
    let table: [(u32, &[u8], &[u8]); 4] = [
        (uapi::INLCR, b"a\n", b"a\r"),
        (uapi::IGNCR, b"a\rb", b"ab"),
        (uapi::ISTRIP, b"\xe1", b"a"),
        (uapi::IUCLC, b"AbC", b"abc"),
    ];
    for (flags, typed, read) in table {
        let mut session = Session::new(|t| {
            t.c_iflag = flags;
            t.c_lflag &= !uapi::ICANON;
        })
        .type_bytes(typed);
        assert_eq!(session.read(10).as_deref(), Some(read), "{flags:o}");
    }
}

#[test]
fn utf8_characters_are_erased_whole() {
    let mut session = Session::new(|t| t.c_iflag |= uapi::IUTF8).type_bytes("aé\x7f\n".as_bytes());
    assert_eq!(session.echoed(), "aé\x08 \x08\r\n".as_bytes());
    assert_eq!(session.read(10).as_deref(), Some(&b"a\n"[..]));
}

#[test]
fn without_echoe_the_erase_key_shows_itself_and_echoprt_shows_what_goes() {
    let plain = Session::new(|t| t.c_lflag &= !uapi::ECHOE).type_bytes(b"ab\x7f");
    assert_eq!(plain.echoed(), b"ab^?");
    let print = Session::new(|t| t.c_lflag |= uapi::ECHOPRT).type_bytes(b"ab\x7f\x7fc");
    assert_eq!(print.echoed(), b"ab\\ba/c");
}

#[test]
fn a_killed_line_without_echoke_ends_in_a_new_line() {
    let mut session = Session::new(|t| t.c_lflag &= !uapi::ECHOKE).type_bytes(b"ab\x15c\n");
    assert_eq!(session.echoed(), b"ab^U\r\nc\r\n");
    assert_eq!(session.read(10).as_deref(), Some(&b"c\n"[..]));
}
