import java.net.URI;
import org.eclipse.jetty.websocket.api.Session;
import org.eclipse.jetty.websocket.api.WebSocketAdapter;
import org.eclipse.jetty.websocket.client.ClientUpgradeRequest;
import org.eclipse.jetty.websocket.client.WebSocketClient;

/** Jetty, with permessage-deflate. */
public class Jetty extends WebSocketAdapter {
    public static void main(String[] args) throws Exception {
        WebSocketClient client = new WebSocketClient();
        client.getPolicy().setMaxTextMessageSize(1 << 30);
        client.start();
        ClientUpgradeRequest request = new ClientUpgradeRequest();
        request.setSubProtocols(Line.protocols(args));
        request.addExtensions("permessage-deflate");
        client.connect(new Jetty(), URI.create(args[0]), request).get();
    }

    @Override
    public void onWebSocketConnect(Session session) {
        super.onWebSocketConnect(session);
        Line.show("open", session.getUpgradeResponse().getAcceptedSubProtocol());
        Line.obey(getRemote()::sendString, code -> session.close(code, ""));
    }

    @Override
    public void onWebSocketText(String text) {
        Line.show("text", text);
    }

    @Override
    public void onWebSocketClose(int code, String reason) {
        Line.show("closed", code);
    }

    @Override
    public void onWebSocketError(Throwable error) {
        error.printStackTrace();
    }
}
