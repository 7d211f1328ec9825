# node: timers, worker threads, child processes, files.
cat > basic.js <<'J'
const { Worker, isMainThread, parentPort } = require('worker_threads');
const { spawn, execSync, fork } = require('child_process');
const fs = require('fs'), crypto = require('crypto'), zlib = require('zlib'), os = require('os');
if (!isMainThread) {
  parentPort.on('message', n => { let s = 0; for (let i = 0; i < n; i++) s += i; parentPort.postMessage(s); parentPort.close(); });
} else if (process.argv[2] === 'child') {
  process.on('message', m => { process.send(m * 2); process.disconnect(); });
} else (async () => {
  const worker = n => new Promise((ok, no) => { const w = new Worker(__filename); w.on('message', ok); w.on('error', no); w.postMessage(n); });
  console.log((await Promise.all([1e5, 2e5, 3e5].map(worker))).join());
  console.log(execSync('echo out; exit 0').toString().trim());
  const c = spawn('sh', ['-c', 'cat; exit 4']); c.stdin.end('in and out\n'); c.stdout.pipe(process.stdout);
  console.log(await new Promise(ok => c.on('close', ok)));
  console.log(await new Promise(ok => { const f = fork(__filename, ['child']); f.on('message', ok); f.send(21); }));
  await fs.promises.writeFile('f', 'x'.repeat(1e6));
  console.log(fs.statSync('f').size, crypto.createHash('sha256').update(fs.readFileSync('f')).digest('hex').slice(0, 8));
  console.log(zlib.gunzipSync(zlib.gzipSync(fs.readFileSync('f'))).length);
  const w = fs.watch('.', () => { console.log('seen'); w.close(); }); setTimeout(() => fs.writeFileSync('g', ''), 50);
  await new Promise(ok => w.on('close', ok));
  const t = Date.now(); await new Promise(ok => setTimeout(ok, 50)); console.log(Date.now() - t >= 49);
  process.on('SIGUSR2', () => { console.log('signal'); process.exit(6); }); process.kill(process.pid, 'SIGUSR2');
  setTimeout(() => {}, 5000);
})();
J
node basic.js; echo "status $?"
node -e 'process.abort()' >/dev/null 2>&1; echo "status $?"
node -e 'throw new Error("x")' 2>/dev/null; echo "status $?"
echo 'console.log([1,2,3].map(x => x * x))' | node -
