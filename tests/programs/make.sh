# gcc and make -j2 on SQLite's 330,000 lines: its tools, then a hundred files, then a shell that works.
set -- /usr/src/sqlite3-3*/
source=${1%/}
cat > Makefile <<M
TOP = $source
BCC = gcc -O0
TCC = gcc -O0 -I.
AR = ar cr
RANLIB = ranlib
NAWK = awk
TCLSH = tclsh
THREADSAFE = -DSQLITE_THREADSAFE=1
THREADLIB = -lpthread -lm -ldl
USE_AMALGAMATION = 0
include \$(TOP)/main.mk
M
make -j2 libsqlite3.a sqlite3 > log 2>&1
echo "make $?"
ls -- *.o | wc -l
cat -- *.o | sha256sum
./sqlite3 :memory: 'create table t(a, b); with recursive n(i) as (select 1 union all select i + 1 from n where i < 10000) insert into t select i, i * i from n; select count(*), sum(b), max(a) from t; select sqlite_version();'
make -j2 libsqlite3.a sqlite3 | sed 's/.*is up to date.*/nothing to do/'
