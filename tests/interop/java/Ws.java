import java.net.URI;
import java.net.URLEncoder;
import java.net.http.HttpClient;
import java.nio.ByteBuffer;
import java.nio.charset.StandardCharsets;
import java.time.Duration;
import java.util.Set;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.CompletionStage;
import java.util.regex.Matcher;
import java.util.regex.Pattern;
import okhttp3.OkHttpClient;
import okhttp3.Request;
import okhttp3.Response;
import okhttp3.WebSocketListener;

/** Connects by one of two WebSocket libraries, prints what comes, and comes back when it ends. */
public class Ws {
    /** After these close codes, connecting again does not help. */
    static final Set<Integer> FINAL = Set.of(1002, 1007, 1008, 1009, 4001, 4005, 4006);
    static final Pattern RESUME = Pattern.compile("\"resume\":\"([^\"]*)\"");
    static final String LARGE = "{\"type\":\"ping\",\"pad\":\"" + "x".repeat(1_200_000) + "\"}";

    static volatile String resume;

    /** Answers what the frame asks to do: nothing, "large" or "goodbye". */
    static String hear(String frame) {
        System.out.println("frame " + frame);
        Matcher found = RESUME.matcher(frame);
        if (found.find()) {
            resume = found.group(1);
        }
        return frame.endsWith("\"data\":\"large\"}") ? "large"
                : frame.endsWith("\"data\":\"goodbye\"}") ? "goodbye" : "";
    }

    /** How a connection ended. */
    record End(int code, String reason) {}

    static class ByJdk implements java.net.http.WebSocket.Listener {
        static final HttpClient CLIENT = HttpClient.newHttpClient();
        final CompletableFuture<End> end = new CompletableFuture<>();
        final StringBuilder parts = new StringBuilder();

        static CompletableFuture<End> connect(String url, String token, boolean byHeader) {
            var listener = new ByJdk();
            var builder = CLIENT.newWebSocketBuilder();
            if (byHeader) {
                builder.header("Authorization", "Bearer " + token).subprotocols("pushnode.v1");
            } else {
                builder.subprotocols("pushnode.v1", "bearer." + token);
            }
            builder.buildAsync(URI.create(url), listener).exceptionally(error -> {
                listener.onError(null, error);
                return null;
            });
            return listener.end;
        }

        @Override
        public void onOpen(java.net.http.WebSocket socket) {
            socket.sendPing(ByteBuffer.allocate(0));
            socket.request(1);
        }

        @Override
        public CompletionStage<?> onPong(java.net.http.WebSocket socket, ByteBuffer data) {
            System.out.println("pong");
            socket.request(1);
            return null;
        }

        @Override
        public CompletionStage<?> onText(java.net.http.WebSocket socket, CharSequence part, boolean isLast) {
            parts.append(part);
            if (isLast) {
                String asked = hear(parts.toString());
                parts.setLength(0);
                if (asked.equals("large")) {
                    socket.sendText(LARGE, true);
                } else if (asked.equals("goodbye")) {
                    socket.sendClose(1000, "");
                }
            }
            socket.request(1);
            return null;
        }

        @Override
        public CompletionStage<?> onClose(java.net.http.WebSocket socket, int code, String reason) {
            end.complete(new End(code, reason));
            return null;
        }

        @Override
        public void onError(java.net.http.WebSocket socket, Throwable error) {
            end.complete(new End(1006, error.toString()));
        }
    }

    static class ByOkHttp extends WebSocketListener {
        // The connection fails where a ping is not answered before the next.
        static final OkHttpClient CLIENT = new OkHttpClient.Builder().pingInterval(Duration.ofSeconds(8)).build();
        final CompletableFuture<End> end = new CompletableFuture<>();

        static CompletableFuture<End> connect(String url, String token, boolean byHeader) {
            var request = new Request.Builder().url(url);
            if (byHeader) {
                request.header("Authorization", "Bearer " + token);
                request.header("Sec-WebSocket-Protocol", "pushnode.v1");
            } else {
                request.header("Sec-WebSocket-Protocol", "pushnode.v1, bearer." + token);
            }
            var listener = new ByOkHttp();
            CLIENT.newWebSocket(request.build(), listener);
            return listener.end;
        }

        @Override
        public void onMessage(okhttp3.WebSocket socket, String text) {
            String asked = hear(text);
            if (asked.equals("large")) {
                socket.send(LARGE);
            } else if (asked.equals("goodbye")) {
                socket.close(1000, null);
            }
        }

        @Override
        public void onClosing(okhttp3.WebSocket socket, int code, String reason) {
            // It does not answer a close frame by itself.
            socket.close(code, null);
            end.complete(new End(code, reason));
        }

        @Override
        public void onFailure(okhttp3.WebSocket socket, Throwable error, Response response) {
            end.complete(new End(1006, error.toString()));
        }
    }

    public static void main(String[] arguments) throws Exception {
        String library = arguments[0], token = arguments[2];
        for (boolean byHeader = true; ; byHeader = !byHeader) {
            String since = resume == null ? "" : "&since=" + URLEncoder.encode(resume, StandardCharsets.UTF_8);
            String url = arguments[1] + since;
            // By header, as programs can, and by subprotocol, as browsers must.
            System.out.println(byHeader ? "by header" : "by subprotocol");
            End end = (library.equals("OkHttp")
                    ? ByOkHttp.connect(url, token, byHeader)
                    : ByJdk.connect(url, token, byHeader)).get();
            System.out.println("close " + end.code() + " " + end.reason());
            if (FINAL.contains(end.code())) {
                break;
            }
            Thread.sleep(300);
        }
        System.out.println("end");
        System.exit(0);
    }
}
