//! Servers and their load generators over loopback: the host's rate over the machine's, by turns in the same run.
//!
//! Server and clients run on the same side. What the host lacks is skipped by name.

mod common;

use common::program::{Case, rate, ratios};
use std::path::Path;

const REDIS: &str = concat!(
    "cd $(mktemp -d /dev/shm/bench.XXXXXX); ",
    "redis-server --unixsocket s --port 26379 --bind 127.0.0.1 --save '' --appendonly no --logfile log & ",
    "until redis-cli -p 26379 ping 2>/dev/null | grep -q PONG; do sleep 0.1; done; ",
    "redis-benchmark -p 26379 -n 300000 -P 16 -q -t ",
);

const PGBENCH: &str = concat!(
    "umask 022; d=$(mktemp -d /dev/shm/bench.XXXXXX); as=; ",
    "if [ $(id -u) = 0 ]; then chown 65534 $d; as='setpriv --reuid 65534 --regid 65534 --clear-groups'; fi; cd $d; ",
    "export PGUSER=me PGDATABASE=postgres PGHOST=127.0.0.1 PGPORT=25432 PGDATA=$d/data HOME=$d; ",
    "PATH=$(ls -d /usr/lib/postgresql/*/bin | tail -1):$PATH; ",
    "$as initdb -U me -A trust --no-sync >/dev/null 2>&1; ",
    "$as pg_ctl -w -l log -o \"-c fsync=off -k $d\" start >/dev/null; ",
    "pgbench -i -s 2 -q >/dev/null 2>&1; pgbench -n -S -c 4 -j 2 -T 4 -M prepared; ",
    "$as pg_ctl -m immediate -w stop >/dev/null; rm -rf $d",
);

const NGINX: &str = concat!(
    "d=$(mktemp -d /dev/shm/bench.XXXXXX); chmod 755 $d; mkdir $d/www $d/logs; echo hello > $d/www/index.html; ",
    "echo \"worker_processes 2; pid $d/pid; events {} http { access_log off; client_body_temp_path $d/b; ",
    "proxy_temp_path $d/p; fastcgi_temp_path $d/f; uwsgi_temp_path $d/u; scgi_temp_path $d/s; ",
    "keepalive_requests 1000000; server { listen 127.0.0.1:28080; root $d/www; } }\" > $d/conf; ",
    "nginx -p $d -e $d/error.log -c $d/conf && wrk -t2 -c16 -d4s http://127.0.0.1:28080/; ",
    "kill $(cat $d/pid); rm -rf $d",
);

fn main() {
    let [set, get] = ["set", "get"].map(|what| {
        let script = format!("{REDIS}{what}; redis-cli -p 26379 shutdown; wait; rm -rf $PWD");
        &*Box::leak(script.into_boxed_str())
    });
    let cases: [Case; 4] = [
        rate("redis SET, P16", "redis-benchmark", set, "SET: ", 0.5),
        rate("redis GET, P16", "redis-benchmark", get, "GET: ", 0.5),
        rate("pgbench -S", "pgbench", PGBENCH, "tps = ", 0.5),
        rate("nginx + wrk", "wrk", NGINX, "Requests/sec:", 0.3),
    ];
    ratios("servers", &cases, Path::new("."));
}
