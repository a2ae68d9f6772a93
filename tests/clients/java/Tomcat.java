import java.net.URI;
import java.util.Arrays;
import java.util.List;
import javax.websocket.ClientEndpointConfig;
import javax.websocket.CloseReason;
import javax.websocket.Endpoint;
import javax.websocket.EndpointConfig;
import javax.websocket.Extension;
import javax.websocket.MessageHandler;
import javax.websocket.Session;
import javax.websocket.WebSocketContainer;
import org.apache.tomcat.websocket.WsWebSocketContainer;

/** Tomcat's client for javax.websocket, with permessage-deflate. */
public class Tomcat extends Endpoint {
    private static final Extension DEFLATE = new Extension() {
        @Override
        public String getName() {
            return "permessage-deflate";
        }

        @Override
        public List<Parameter> getParameters() {
            return List.of();
        }
    };

    public static void main(String[] args) throws Exception {
        WebSocketContainer container = new WsWebSocketContainer();
        container.setDefaultMaxTextMessageBufferSize(1 << 24);
        ClientEndpointConfig config = ClientEndpointConfig.Builder.create()
            .preferredSubprotocols(Arrays.asList(Line.protocols(args))).extensions(List.of(DEFLATE)).build();
        container.connectToServer(new Tomcat(), config, URI.create(args[0]));
    }

    @Override
    public void onOpen(Session session, EndpointConfig config) {
        session.addMessageHandler(String.class, (MessageHandler.Whole<String>) text -> Line.show("text", text));
        Line.show("open", session.getNegotiatedSubprotocol());
        Line.obey(session.getBasicRemote()::sendText, code -> session.close(new CloseReason(CloseReason.CloseCodes.getCloseCode(code), "")));
    }

    @Override
    public void onClose(Session session, CloseReason reason) {
        Line.show("closed", reason.getCloseCode().getCode());
    }

    @Override
    public void onError(Session session, Throwable error) {
        error.printStackTrace();
    }
}
