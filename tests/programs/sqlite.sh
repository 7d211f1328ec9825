# sqlite3's shell: transactions, write-ahead log, two writers at once, a writer killed.
sqlite3 a.db 'create table t(i integer primary key, x); begin; with recursive n(i) as (select 1 union all select i + 1 from n where i < 50000) insert into t select i, i * 7 % 1000 from n; commit; create index tx on t(x); select x, count(*) from t group by x order by x limit 3; pragma integrity_check;'
sqlite3 a.db 'begin; delete from t; rollback; select count(*) from t; vacuum; pragma page_count;'
sqlite3 w.db 'pragma journal_mode = wal; create table t(who, i);'
for who in 1 2; do
    for i in $(seq 40); do
        echo ".timeout 20000"
        echo "insert into t values($who, $i);"
    done | sqlite3 w.db &
done
wait
sqlite3 w.db 'select who, count(*) from t group by who; pragma integrity_check;'
mkfifo pipe; sqlite3 w.db < pipe & killed=$!; exec 3> pipe
echo 'begin; insert into t values(3, 3);' >&3; sleep 0.5; kill -9 "$killed"; exec 3>&-; wait "$killed"; echo "killed $?"
sqlite3 w.db '.timeout 5000' 'select count(*) from t where who = 3; pragma integrity_check;'
sqlite3 m.db 'pragma mmap_size = 268435456; create table b(x blob); with recursive n(i) as (select 1 union all select i + 1 from n where i < 200) insert into b select zeroblob(10000) from n; select sum(length(x)) from b;' 
sqlite3 -csv -header a.db 'select * from t limit 2'
sqlite3 a.db .dump | sha256sum
