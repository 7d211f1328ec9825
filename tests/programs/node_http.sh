# node: an HTTP server and its clients on loopback, in one process and from curl.
cat > http.js <<'J'
const http = require('http'), net = require('net');
const server = http.createServer((q, r) => { let n = 0; q.on('data', d => n += d.length).on('end', () => { r.setHeader('X-Path', q.url); r.end(`got ${n}\n`); }); });
server.listen(+process.argv[2], '127.0.0.1', async () => {
  console.log(server.address().address);
  const agent = new http.Agent({ keepAlive: true, maxSockets: 8 });
  const one = i => new Promise((ok, no) => { const q = http.request({ port: server.address().port, host: '127.0.0.1', path: '/' + i, method: 'POST', agent }, r => { let s = ''; r.on('data', d => s += d).on('end', () => ok(s.trim() + ' ' + r.headers['x-path'])); }); q.on('error', no); q.end('y'.repeat(i * 1000)); });
  const all = await Promise.all(Array.from({ length: 200 }, (_, i) => one(i)));
  console.log(all.length, all[0], all[199]);
  agent.destroy();
  await new Promise(ok => net.connect(1, '127.0.0.1').on('error', e => { console.log(e.code); ok(); }));
  console.log('ready');
});
process.on('SIGTERM', () => { server.close(() => console.log('closed')); server.closeAllConnections(); });
J
node http.js "$port" > log 2>&1 & children=$!
soon grep -q ready log
for i in 1 2 3; do curl -s -d "hello $i" "http://127.0.0.1:$port/$i"; done
curl -s -o /dev/null -w '%{http_code}\n' "http://localhost:$port/"
head -c 3000000 /dev/zero | curl -s --data-binary @- "http://127.0.0.1:$port/big"
curl -s "http://127.0.0.1:1/"; echo "curl $?"
kill "$children"; wait "$children"; echo "status $?"; children=
cat log
