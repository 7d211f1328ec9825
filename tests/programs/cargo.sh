# cargo: a small crate with two path dependencies, a build script and tests, offline. CARGO and RUSTC are the toolchain's.
export CARGO_HOME=$here/home RUSTC CARGO_TERM_COLOR=never CARGO_NET_OFFLINE=true
PATH=$(dirname "$RUSTC"):$PATH
mkdir -p app/src one/src two/src
for c in one two; do printf '[package]\nname = "%s"\nversion = "0.1.0"\nedition = "2021"\n' $c > $c/Cargo.toml; done
printf '[dependencies]\none = { path = "../one" }\n' >> two/Cargo.toml
echo 'pub fn one() -> u32 { 1 }' > one/src/lib.rs
echo 'pub fn two() -> u32 { one::one() + 1 } #[test] fn adds() { assert_eq!(two(), 2) }' > two/src/lib.rs
printf '[package]\nname = "app"\nversion = "0.1.0"\nedition = "2021"\n[dependencies]\none = { path = "../one" }\ntwo = { path = "../two" }\n' > app/Cargo.toml
echo 'fn main() { println!("cargo::rustc-env=BUILT=by a script") }' > app/build.rs
cat > app/src/main.rs <<'R'
use std::{sync::mpsc, thread};
fn main() {
    let (send, receive) = mpsc::channel();
    let threads: Vec<_> = (0..8).map(|i| { let s = send.clone(); thread::spawn(move || s.send(i * two::two()).unwrap()) }).collect();
    threads.into_iter().for_each(|t| t.join().unwrap());
    drop(send);
    println!("{} {} {}", env!("BUILT"), one::one(), receive.iter().sum::<u32>());
    let caught = std::panic::catch_unwind(|| panic!("on purpose")).is_err();
    println!("{caught}");
}
R
cd app
"$CARGO" build -j2 --offline > ../log 2>&1; echo "build $?"
target/debug/app 2>/dev/null
"$CARGO" build -j2 --offline 2>&1 | sed 's/ in [0-9.]*s//' | tr -s ' '
sed -i 's/8)/9)/' src/main.rs; "$CARGO" run -q --offline 2>/dev/null
"$CARGO" test -q --offline --manifest-path ../two/Cargo.toml 2>/dev/null | grep -c 'test result: ok'
echo 'fn broken( {}' > src/main.rs; "$CARGO" check --offline >/dev/null 2>&1; echo "check $?"
