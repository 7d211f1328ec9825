# redis-server: commands, a snapshot by a forked child, append-only log, redis-benchmark.
redis-server --port "$port" --bind 127.0.0.1 --dir "$here" --save '' --appendonly yes --logfile log --unixsocket "$here/s" & children=$!
soon sh -c "redis-cli -p $port ping | grep -q PONG"
cli() { redis-cli -p "$port" "$@"; }
cli set k v; cli get k; cli incrby n 41; cli incr n; cli rpush l a b c; cli lrange l 0 -1; cli eval 'return redis.call("get", KEYS[1])' 1 k
redis-cli -s "$here/s" get k
for i in $(seq 5000); do echo "set key$i value$i"; done | cli --pipe | tail -1 
cli dbsize; cli save; cli bgsave; soon sh -c "redis-cli -p $port info persistence | grep -q rdb_bgsave_in_progress:0"; cli info persistence | grep -E 'rdb_last_bgsave_status' | tr -d '\r'
cli bgrewriteaof; soon sh -c "redis-cli -p $port info persistence | grep -q aof_rewrite_in_progress:0"
(cli subscribe ch > sub & echo $! > subpid); soon grep -q subscribe sub; cli publish ch hello; soon grep -q hello sub; kill "$(cat subpid)"
redis-benchmark -p "$port" -n 2000 -c 20 -t ping,set,get,lpush -q | grep -c 'requests per second'
redis-benchmark -p "$port" -n 5000 -c 10 -P 16 -t set,get -q | grep -c 'requests per second'
redis-benchmark -s "$here/s" -n 2000 --threads 2 -t get -q | grep -c 'requests per second'
cli expire k 1; sleep 1.2; cli exists k
cli shutdown; wait "$children"; echo "status $?"
redis-server --port "$port" --bind 127.0.0.1 --dir "$here" --save '' --appendonly yes --logfile log2 & children=$!
soon sh -c "redis-cli -p $port ping | grep -q PONG"; cli get key77; cli get n
kill "$children"; wait "$children"; echo "status $?"; children=
