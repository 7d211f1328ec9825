# java: compiling and running a program of threads, locks, files and processes.
cat > Main.java <<'J'
import java.nio.file.*;
import java.util.*;
import java.util.concurrent.*;
import java.util.concurrent.atomic.*;
import java.util.stream.*;

public class Main {
    static synchronized void nothing() {}

    public static void main(String[] args) throws Exception {
        var pool = Executors.newFixedThreadPool(8);
        var sum = new AtomicLong();
        var results = new ArrayList<Future<Long>>();
        for (int i = 0; i < 64; i++) {
            final int n = i;
            results.add(pool.submit(() -> {
                long s = 0;
                for (int k = 0; k < 100000; k++) { s += (k * 31L) ^ n; if (k % 1000 == 0) nothing(); }
                sum.addAndGet(s);
                return s;
            }));
        }
        long other = 0;
        for (var r : results) other += r.get();
        System.out.println(sum.get() == other ? "sums " + other : "sums differ");
        pool.shutdown();
        System.out.println(pool.awaitTermination(10, TimeUnit.SECONDS));

        var queue = new SynchronousQueue<Integer>();
        var t = new Thread(() -> { try { for (int i = 0; i < 1000; i++) queue.put(i); } catch (InterruptedException e) {} });
        t.start();
        long got = 0;
        for (int i = 0; i < 1000; i++) got += queue.take();
        t.join();
        System.out.println(got);

        System.out.println(IntStream.range(0, 1_000_000).parallel().filter(i -> i % 7 == 0).count());
        byte[][] garbage = new byte[100][];
        for (int i = 0; i < 20000; i++) garbage[i % 100] = new byte[10000];
        System.gc();

        Path f = Files.createTempFile("x", ".txt");
        Files.writeString(f, "line one\nline two\n");
        System.out.println(Files.readAllLines(f).size());
        Files.delete(f);
        Process p = new ProcessBuilder("sh", "-c", "cat; exit 3").start();
        try (var out = p.getOutputStream()) { out.write("through a child\n".getBytes()); }
        System.out.print(new String(p.getInputStream().readAllBytes()));
        System.out.println(p.waitFor());
        try { Object o = null; o.hashCode(); } catch (NullPointerException e) { System.out.println("null caught"); }
        try { deep(0); } catch (StackOverflowError e) { System.out.println("overflow caught"); }
        var waiting = new Thread(() -> { try { Thread.sleep(60000); } catch (InterruptedException e) { System.out.println("interrupted"); } });
        waiting.start(); waiting.interrupt(); waiting.join();
        Runtime.getRuntime().addShutdownHook(new Thread(() -> System.out.println("hook")));
        System.exit(5);
    }

    static int deep(int n) { return deep(n + 1) + 1; }
}
J
javac Main.java; echo "javac $?"
java -XX:+UseSerialGC -Xmx256m Main; echo "status $?"
java -Xmx256m Main; echo "status $?"
java -Xint -version 2>&1 | wc -l
