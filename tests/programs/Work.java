import java.util.concurrent.locks.LockSupport;

/** Methods with a known call structure, hot enough to be compiled. With an argument they wait, too. */
public class Work {
    static volatile long sink;
    static boolean waits;

    static long burn(long n) {
        if (waits) LockSupport.parkNanos(200000);
        long x = n;
        for (long i = 0; i < n; i++) x = x * 6364136223846793005L + 1442695040888963407L;
        return x;
    }

    static long inner(long n) {
        return burn(n) + 1;
    }

    static long outer(long n) {
        return inner(n) + 2;
    }

    static void forever(long end) {
        while (System.currentTimeMillis() < end) sink += outer(50000);
    }

    public static void main(String[] arguments) {
        waits = arguments.length > 0;
        long now = System.currentTimeMillis();
        forever(now + 2000);
        System.out.println("ready");
        // Called again, compiled now, and not on the stack that was replaced while it ran.
        for (int i = 0; i < 120; i++) forever(now + 1000L * i);
    }
}
