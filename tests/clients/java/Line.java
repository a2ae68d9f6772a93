import java.io.BufferedReader;
import java.io.InputStreamReader;
import java.io.PrintStream;
import java.nio.charset.StandardCharsets;
import java.util.Arrays;

/** The line protocol of the client programs (see ../README.md): what all clients in Java share. */
final class Line {
    private static final PrintStream OUT = new PrintStream(System.out, true, StandardCharsets.UTF_8);

    interface Send { void send(String text) throws Exception; }
    interface Close { void close(int code) throws Exception; }

    static String[] protocols(String[] args) {
        return Arrays.copyOfRange(args, 1, args.length);
    }

    /** A line for the driver: `open PROTOCOL`, `text TEXT`, `closed CODE`. */
    static synchronized void show(String word, Object value) {
        OUT.print(word + " " + (value == null ? "" : value) + "\n");
        OUT.flush();
    }

    /** `failed WHY`. */
    static void failed(Object why) {
        show("failed", String.valueOf(why).replaceAll("\\s+", " "));
    }

    /** Carries out the lines of the driver, in a thread of its own; their end ends the program. */
    static void obey(Send send, Close close) {
        Thread thread = new Thread(() -> {
            try (BufferedReader lines = new BufferedReader(new InputStreamReader(System.in, StandardCharsets.UTF_8))) {
                for (String line; (line = lines.readLine()) != null; ) {
                    if (line.startsWith("close ")) {
                        close.close(Integer.parseInt(line.substring(6)));
                    } else {
                        send.send(line.substring(5));
                    }
                }
            } catch (Exception error) {
                failed(error);
            }
            System.exit(0);
        });
        // Threads of a library may be daemons, and pass that on.
        thread.setDaemon(false);
        thread.start();
    }
}
