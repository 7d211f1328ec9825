# ssh-keygen, and an sshd with logins over loopback: commands, data both ways, a terminal, a forwarded port, sftp.
for kind in ed25519 rsa ecdsa; do ssh-keygen -q -t $kind -N '' -f key.$kind -C test; ssh-keygen -l -f key.$kind | sed 's/SHA256:[^ ]*/-/'; done
ssh-keygen -y -f key.ed25519 | diff - <(cut -d' ' -f1-2 key.ed25519.pub) > /dev/null; ssh-keygen -q -t ed25519 -N '' -f host
echo signed > text; ssh-keygen -q -Y sign -f key.ed25519 -n file text 2>/dev/null; echo "test $(cut -d' ' -f1-2 key.ed25519.pub)" > allowed
ssh-keygen -Y verify -f allowed -I test -n file -s text.sig < text | sed 's/key SHA256.*//'
cp key.ed25519.pub authorized; chmod 600 authorized key.*
made=; [ -d /run/sshd ] || { mkdir -p /run/sshd && made=1; }
cat > sshd_config <<C
ListenAddress 127.0.0.1:$port
HostKey $here/host
AuthorizedKeysFile $here/authorized
StrictModes no
PasswordAuthentication no
PidFile $here/sshd.pid
Subsystem sftp internal-sftp
PrintMotd no
PrintLastLog no
C
/usr/sbin/sshd -D -f sshd_config -E sshd.log & children=$!
to="-F none -p $port -i $here/key.ed25519 -o StrictHostKeyChecking=no -o UserKnownHostsFile=$here/known -o LogLevel=ERROR -o IdentitiesOnly=yes"
user=$(id -un)
soon ssh $to "$user@127.0.0.1" true
ssh $to "$user@127.0.0.1" 'echo in; id -un; exit 3'; echo "status $?"
seq 200000 | ssh $to "$user@127.0.0.1" 'sort -rn | head -3; cat > /dev/null'
head -c 5000000 /dev/zero | ssh $to "$user@127.0.0.1" cat | sha256sum
ssh -tt $to "$user@127.0.0.1" 'test -t 0 && echo terminal; stty size < /dev/null >/dev/null 2>&1; exit 4' < /dev/null | tr -d '\r'; echo "${PIPESTATUS[0]}"
echo "get $here/text $here/fetched" | sftp -q -b - ${to/-p/-P} "$user@127.0.0.1" > /dev/null; echo "sftp $?"; cat fetched
scp -q ${to/-p/-P} "$user@127.0.0.1:$here/text" copied; cat copied
ssh -f -N -M -S "$here/m" $to "$user@127.0.0.1"; ssh -S "$here/m" $to "$user@127.0.0.1" echo multiplexed; ssh -S "$here/m" -O exit $to "$user@127.0.0.1" 2>&1
ssh -F none -p "$port" -i key.rsa -o IdentitiesOnly=yes -o BatchMode=yes -o StrictHostKeyChecking=no -o UserKnownHostsFile=$here/known -o LogLevel=ERROR "$user@127.0.0.1" true 2>/dev/null; echo "refused $?"
kill "$children"; wait "$children"; children=; [ -z "$made" ] || rmdir /run/sshd
