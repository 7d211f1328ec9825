# PostgreSQL: initdb, start, SQL over both kinds of socket, pgbench, a crash and its recovery, stop.
bin=$(ls -d /usr/lib/postgresql/*/bin | tail -1)
PATH=$bin:$PATH
export PGUSER=me PGDATABASE=postgres PGHOST=127.0.0.1 PGPORT=$port PGDATA=$here/data
initdb -U me -A trust -E UTF8 --no-sync > log 2>&1; echo "initdb $?"
cat >> data/postgresql.conf <<C
listen_addresses = '127.0.0.1'
unix_socket_directories = '$here'
shared_buffers = 32MB
fsync = off
max_connections = 30
C
pg_ctl -w -t 60 -l server.log start > /dev/null; echo "start $?"
psql -Atc 'select 6 * 7'
psql -At -h "$here" <<'S'
create table t(i int primary key, x text);
insert into t select i, md5(i::text) from generate_series(1, 20000) i;
select count(*), min(x), max(x) from t;
begin; delete from t where i < 10000; rollback;
select count(*) from t;
create index on t(x); analyze t; vacuum t;
set max_parallel_workers_per_gather = 2; set min_parallel_table_scan_size = 0; set parallel_setup_cost = 0;
select sum(length(x)) from t;
select pg_size_pretty(pg_relation_size('t'));
select 1 / 0;
S
for i in 1 2 3 4; do psql -qc "update t set x = 'u' where i % 4 = $i - 1" & done; wait $(jobs -p)
psql -Atc "select count(*) from t where x = 'u'"
pgbench -i -s 2 -q 2>/dev/null; echo "pgbench -i $?"
pgbench -n -c 4 -j 2 -t 100 2>/dev/null | grep -E 'processed|failed'
pgbench -n -S -c 4 -j 2 -t 500 -M prepared 2>/dev/null | grep -E 'processed|failed'
psql -Atc 'select sum(abalance) = (select sum(delta) from pgbench_history) from pgbench_accounts'
pg_dump -t t --data-only postgres | grep -c '^[0-9]'
pg_ctl -m immediate -w stop > /dev/null; echo "crash $?"
pg_ctl -w -t 60 -l server.log start > /dev/null; echo "recovery $?"
psql -Atc "select count(*) from t"
pg_ctl -m fast -w stop > /dev/null; echo "stop $?"
grep -E 'PANIC|FATAL' server.log | grep -v -e 'starting up' -e 'administrator command' | sed 's/.*FATAL/FATAL/'; echo end
