# perl: data, processes, signals, pipes, files, sockets, its own test of threads.
perl -e 'use strict; my %h = map { $_ => $_ ** 2 } 1 .. 10; print join(",", map { "$_=$h{$_}" } sort { $a <=> $b } keys %h), "\n"'
perl -e 'my $pid = fork; exit 7 unless $pid; waitpid $pid, 0; print $? >> 8, "\n"; print `echo sub; exit 3`, $? >> 8, "\n"'
perl -e '$SIG{ALRM} = sub { print "alarm\n" }; alarm 1; select undef, undef, undef, 1.5; $SIG{CHLD} = sub { wait; print "child\n" }; fork || exit; sleep 5; kill KILL => fork || do { sleep 9; exit }; sleep 5; print "end\n"'
perl -e 'pipe my $r, my $w; unless (fork) { close $r; print $w "from child\n" x 20000; exit } close $w; my @l = <$r>; print scalar(@l), "\n"'
perl -e 'open my $f, "+>", undef; print $f "x" x 100000; seek $f, 0, 0; print length(<$f>), "\n"; opendir my $d, "/usr/bin"; print readdir($d) > 10, "\n"; print -s "/bin/sh" > 0, -x "/bin/sh", -d "/", "\n"; print flock($f, 2), truncate($f, 5), -s $f, "\n"'
perl -MSocket -MIO::Select -e 'socketpair my $a, my $b, AF_UNIX, SOCK_STREAM, 0; syswrite $a, "hey"; print scalar(IO::Select->new($b)->can_read(0)), "\n"; sysread $b, my $buf, 10; print "$buf\n"'
perl -MPOSIX -MTime::HiRes=usleep,time -e 'print strftime("%F %T", gmtime 86399), "\n"; my $t = time; usleep 20000; print time - $t >= 0.02 ? "slept\n" : "early\n"; my ($s, $m) = (POSIX::uname())[0, 4]; print "$s $m\n"; my $p = POSIX::getpgrp(); print POSIX::setsid() > 0 ? "session\n" : "leader $!\n"' | sed 's/leader.*/session/'
perl -MFile::Find -MFile::Temp=tempdir -MFile::Path=make_path -MCwd -e 'my $d = tempdir(CLEANUP => 1); make_path("$d/a/b/c"); chdir $d; my $n; find(sub { $n++ }, "."); print "$n ", Cwd::getcwd() eq Cwd::realpath($d), "\n"; chdir "/"'
perl -Mthreads -MThread::Queue -e 'my $q = Thread::Queue->new; my @t = map { threads->create(sub { my $s = 0; while (defined(my $i = $q->dequeue)) { $s += $i } $s }) } 1 .. 4; $q->enqueue(1 .. 1000); $q->end; my $s = 0; $s += $_->join for @t; print "$s\n"'
perl -e 'while (<>) { $n{$_}++ for split } print map { "$_ $n{$_}\n" } (sort { $n{$b} <=> $n{$a} || $a cmp $b } keys %n)[0 .. 4]' /usr/share/common-licenses/Apache-2.0
perl -e 'die "no\n"'; echo $?
perl -e 'kill 9, $$'; echo $?
