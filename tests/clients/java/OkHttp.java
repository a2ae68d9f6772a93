import okhttp3.OkHttpClient;
import okhttp3.Request;
import okhttp3.Response;
import okhttp3.WebSocket;
import okhttp3.WebSocketListener;

/** OkHttp 3. */
public class OkHttp extends WebSocketListener {
    public static void main(String[] args) {
        Request.Builder request = new Request.Builder().url(args[0]);
        if (args.length > 1) {
            request.header("Sec-WebSocket-Protocol", String.join(", ", Line.protocols(args)));
        }
        new OkHttpClient.Builder().build().newWebSocket(request.build(), new OkHttp());
    }

    @Override
    public void onOpen(WebSocket link, Response response) {
        Line.show("open", response.header("Sec-WebSocket-Protocol"));
        Line.obey(link::send, code -> link.close(code, ""));
    }

    @Override
    public void onMessage(WebSocket link, String text) {
        Line.show("text", text);
    }

    @Override
    public void onClosing(WebSocket link, int code, String reason) {
        link.close(code, "");
    }

    @Override
    public void onClosed(WebSocket link, int code, String reason) {
        Line.show("closed", code);
    }

    @Override
    public void onFailure(WebSocket link, Throwable error, Response response) {
        Line.failed(error);
    }
}
