//! Results: the known differences by reason, the table, the JSON file, and native results kept for the next run.

use crate::cases::Verdict;
use crate::run::Ending;
use std::collections::BTreeMap;
use std::fmt::Write;
use std::time::Duration;

/// What became of one test.
#[derive(Clone, Debug)]
pub struct Row {
    pub name: String,
    pub native: Ending,
    /// None where it did not pass natively: there is nothing to compare with.
    pub inside: Option<Ending>,
}

/// Known differences: lines `[reason in words]`, each followed by names of tests; `#` introduces a comment.
/// A name that ends in `*` stands for all that begin so.
pub struct Known(Vec<(String, String)>);

impl Known {
    pub fn parse(text: &str) -> Known {
        let mut reason = String::new();
        let mut names = Vec::new();
        for line in text.lines().map(|line| line.split('#').next().unwrap_or("").trim()) {
            match line.strip_prefix('[').and_then(|line| line.strip_suffix(']')) {
                Some(words) => reason = words.to_owned(),
                None => names.extend(line.split_whitespace().map(|name| (name.to_owned(), reason.clone()))),
            }
        }
        Known(names)
    }

    pub fn reason(&self, test: &str) -> Option<&str> {
        let fits = |name: &str| match name.strip_suffix('*') {
            Some(start) => test.starts_with(start),
            None => test == name,
        };
        self.0.iter().find(|(name, _)| fits(name)).map(|(_, reason)| reason.as_str())
    }
}

/// The sums of a run.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Sums {
    pub tests: usize,
    pub native: usize,
    pub inside: usize,
    /// Pass natively, not inside, and no reason is on file.
    pub unexplained: usize,
}

pub fn sums(rows: &[Row], known: &Known) -> Sums {
    let native = |row: &&Row| row.native.verdict == Verdict::Pass;
    Sums {
        tests: rows.len(),
        native: rows.iter().filter(native).count(),
        inside: rows.iter().filter(native).filter(|row| passes_inside(row)).count(),
        unexplained: differing(rows).filter(|row| known.reason(&row.name).is_none()).count(),
    }
}

fn passes_inside(row: &Row) -> bool {
    row.inside.is_some_and(|ending| ending.verdict == Verdict::Pass)
}

/// Passed natively, ran inside and did not pass there.
fn differing(rows: &[Row]) -> impl Iterator<Item = &Row> {
    rows.iter().filter(|row| row.native.verdict == Verdict::Pass && row.inside.is_some() && !passes_inside(row))
}

/// The table for a reader.
pub fn table(rows: &[Row], known: &Known) -> String {
    let sums = sums(rows, known);
    let mut out = String::new();
    let mut by_reason: BTreeMap<&str, Vec<String>> = BTreeMap::new();
    for row in differing(rows) {
        let verdict = row.inside.map_or("", |ending| ending.verdict.word());
        let reason = known.reason(&row.name).unwrap_or("(no reason on file)");
        by_reason.entry(reason).or_default().push(format!("{} {verdict}", row.name));
    }
    for (reason, names) in &by_reason {
        let _ = writeln!(out, "{reason}: {}", names.len());
        for name in names {
            let _ = writeln!(out, "    {name}");
        }
    }
    for row in rows.iter().filter(|row| passes_inside(row) && known.reason(&row.name).is_some()) {
        let _ = writeln!(out, "passes, though a reason is on file: {}", row.name);
    }
    let _ = writeln!(out, "tests                      {:6}", sums.tests);
    let _ = writeln!(out, "pass natively              {:6}", sums.native);
    let tenths = (sums.inside * 1000).checked_div(sums.native).unwrap_or(0);
    let _ = writeln!(out, "pass natively and inside   {:6}  {}.{} %", sums.inside, tenths / 10, tenths % 10);
    let _ = writeln!(out, "differ without a reason    {:6}", sums.unexplained);
    out
}

/// The same for a program.
pub fn json(suite: &str, rows: &[Row], known: &Known) -> String {
    let ending = |ending: Ending| {
        format!("{{\"verdict\": {}, \"seconds\": {:.3}}}", string(ending.verdict.word()), ending.took.as_secs_f64())
    };
    let tests: Vec<String> = rows
        .iter()
        .map(|row| {
            let inside = row.inside.map_or("null".to_owned(), ending);
            let reason = known.reason(&row.name).map_or("null".to_owned(), string);
            let native = ending(row.native);
            format!(
                "    {{\"name\": {}, \"native\": {native}, \"inside\": {inside}, \"reason\": {reason}}}",
                string(&row.name)
            )
        })
        .collect();
    let sums = sums(rows, known);
    format!(
        "{{\n  \"suite\": {}, \"tests\": {}, \"native\": {}, \"inside\": {}, \"unexplained\": {},\n  \"results\": [\n{}\n  ]\n}}\n",
        string(suite),
        sums.tests,
        sums.native,
        sums.inside,
        sums.unexplained,
        tests.join(",\n")
    )
}

fn string(text: &str) -> String {
    let mut out = String::from("\"");
    for c in text.chars() {
        match c {
            '"' | '\\' => out.extend(['\\', c]),
            c if c < ' ' => _ = write!(out, "\\u{:04x}", u32::from(c)),
            c => out.push(c),
        }
    }
    out + "\""
}

/// Native results as lines `name verdict seconds`, to be given to a later run.
pub fn native_lines(rows: &[Row]) -> String {
    let line = |row: &Row| format!("{} {} {:.3}\n", row.name, row.native.verdict.word(), row.native.took.as_secs_f64());
    rows.iter().map(line).collect()
}

/// Reads [`native_lines`].
pub fn parse_native(text: &str) -> BTreeMap<String, Ending> {
    let parse = |line: &str| {
        let mut words = line.rsplitn(3, ' ');
        let seconds = words.next()?.parse().ok()?;
        let verdict = Verdict::from_word(words.next()?)?;
        Some((words.next()?.to_owned(), Ending { verdict, took: Duration::try_from_secs_f64(seconds).ok()? }))
    };
    text.lines().filter_map(parse).collect()
}
