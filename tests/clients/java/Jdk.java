import java.net.URI;
import java.net.http.HttpClient;
import java.net.http.WebSocket;
import java.util.concurrent.CompletionStage;

/** java.net.http of the JDK. */
public class Jdk implements WebSocket.Listener {
    private final StringBuilder text = new StringBuilder();

    public static void main(String[] args) {
        WebSocket.Builder builder = HttpClient.newHttpClient().newWebSocketBuilder();
        String[] protocols = Line.protocols(args);
        if (protocols.length > 0) {
            builder.subprotocols(protocols[0], Line.protocols(protocols));
        }
        builder.buildAsync(URI.create(args[0]), new Jdk()).join();
    }

    @Override
    public void onOpen(WebSocket link) {
        Line.show("open", link.getSubprotocol());
        Line.obey(text -> link.sendText(text, true).join(), code -> link.sendClose(code, "").join());
        link.request(1);
    }

    @Override
    public CompletionStage<?> onText(WebSocket link, CharSequence data, boolean last) {
        text.append(data);
        if (last) {
            Line.show("text", text);
            text.setLength(0);
        }
        link.request(1);
        return null;
    }

    @Override
    public CompletionStage<?> onClose(WebSocket link, int code, String reason) {
        Line.show("closed", code);
        return null;
    }

    @Override
    public void onError(WebSocket link, Throwable error) {
        Line.failed(error);
    }
}
