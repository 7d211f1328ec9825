# nginx with two workers: files, ranges, keep-alive under wrk and ab, reload, orderly stop.
mkdir -p www logs; echo hello > www/index.html; head -c 3000000 /dev/zero | tr '\0' z > www/big
chmod -R a+rX "$here"
cat > nginx.conf <<C
worker_processes 2;
pid $here/pid;
error_log $here/error.log;
events { worker_connections 512; }
http {
    access_log $here/access.log;
    sendfile on; tcp_nopush on; keepalive_timeout 30; keepalive_requests 100000;
    client_body_temp_path $here/b; proxy_temp_path $here/p; fastcgi_temp_path $here/f; uwsgi_temp_path $here/u; scgi_temp_path $here/s;
    types { text/html html; }
    server { listen 127.0.0.1:$port; root $here/www; location /back/ { proxy_pass http://127.0.0.1:$port/; } }
}
C
nginx -p "$here" -e "$here/error.log" -c "$here/nginx.conf"; echo "start $?"
url=http://127.0.0.1:$port
soon curl -sf "$url/"
curl -s "$url/"; curl -s "$url/back/"; curl -s "$url/big" | sha256sum; curl -s -r 10-19 "$url/big"; echo; curl -s "$url/back/big" | wc -c
curl -s -o /dev/null -w '%{http_code}\n' "$url/none"
curl -sI "$url/" | grep -E 'HTTP|Content-Length' | tr -d '\r'
if command -v wrk > /dev/null; then wrk -t2 -c16 -d1s "$url/" > wrk; grep -cE 'Requests/sec: +[1-9]' wrk; grep -E 'Socket errors.*(connect|read|write) [1-9]|Non-2xx' wrk; fi
if command -v ab > /dev/null; then ab -q -k -n 2000 -c 20 "$url/" 2>&1 | grep -E 'Complete requests|Failed requests|Keep-Alive requests'; ab -q -n 300 -c 5 "$url/" 2>&1 | grep -E 'Complete|Failed'; fi
nginx -p "$here" -e "$here/error.log" -c "$here/nginx.conf" -s reload; echo "reload $?"; sleep 0.3; curl -s "$url/"
pid=$(cat pid); nginx -p "$here" -e "$here/error.log" -c "$here/nginx.conf" -s quit; soon sh -c "! kill -0 $pid"
curl -s "$url/"; echo "curl $?"
grep -E 'alert|emerg' error.log; echo end
