import io.netty.bootstrap.Bootstrap;
import io.netty.channel.ChannelHandlerContext;
import io.netty.channel.ChannelInitializer;
import io.netty.channel.SimpleChannelInboundHandler;
import io.netty.channel.nio.NioEventLoopGroup;
import io.netty.channel.socket.SocketChannel;
import io.netty.channel.socket.nio.NioSocketChannel;
import io.netty.handler.codec.http.DefaultHttpHeaders;
import io.netty.handler.codec.http.HttpClientCodec;
import io.netty.handler.codec.http.HttpObjectAggregator;
import io.netty.handler.codec.http.websocketx.CloseWebSocketFrame;
import io.netty.handler.codec.http.websocketx.TextWebSocketFrame;
import io.netty.handler.codec.http.websocketx.WebSocketClientHandshaker;
import io.netty.handler.codec.http.websocketx.WebSocketClientHandshakerFactory;
import io.netty.handler.codec.http.websocketx.WebSocketClientProtocolHandler;
import io.netty.handler.codec.http.websocketx.WebSocketClientProtocolHandler.ClientHandshakeStateEvent;
import io.netty.handler.codec.http.websocketx.WebSocketFrame;
import io.netty.handler.codec.http.websocketx.WebSocketFrameAggregator;
import io.netty.handler.codec.http.websocketx.WebSocketVersion;
import io.netty.handler.codec.http.websocketx.extensions.compression.WebSocketClientCompressionHandler;
import io.netty.handler.ssl.SslContextBuilder;
import java.net.URI;

/** Netty with its stock handler for compression. */
public class Netty extends SimpleChannelInboundHandler<WebSocketFrame> {
    private static final int MESSAGE_MAX = 1 << 24;
    private final WebSocketClientHandshaker handshaker;

    private Netty(WebSocketClientHandshaker handshaker) {
        this.handshaker = handshaker;
    }

    public static void main(String[] args) throws Exception {
        URI url = URI.create(args[0]);
        String protocols = args.length > 1 ? String.join(",", Line.protocols(args)) : null;
        WebSocketClientHandshaker handshaker = WebSocketClientHandshakerFactory.newHandshaker(
            url, WebSocketVersion.V13, protocols, true, new DefaultHttpHeaders(), MESSAGE_MAX);
        new Bootstrap().group(new NioEventLoopGroup(1)).channel(NioSocketChannel.class).handler(new ChannelInitializer<SocketChannel>() {
            @Override
            protected void initChannel(SocketChannel channel) throws Exception {
                if (url.getScheme().equals("wss")) {
                    channel.pipeline().addLast(SslContextBuilder.forClient().build().newHandler(channel.alloc(), url.getHost(), url.getPort()));
                }
                channel.pipeline().addLast(new HttpClientCodec(), new HttpObjectAggregator(8192), WebSocketClientCompressionHandler.INSTANCE,
                    new WebSocketClientProtocolHandler(handshaker, false), new WebSocketFrameAggregator(MESSAGE_MAX), new Netty(handshaker));
            }
        }).connect(url.getHost(), url.getPort()).sync();
    }

    @Override
    public void userEventTriggered(ChannelHandlerContext context, Object event) {
        if (event == ClientHandshakeStateEvent.HANDSHAKE_COMPLETE) {
            Line.show("open", handshaker.actualSubprotocol());
            Line.obey(text -> context.writeAndFlush(new TextWebSocketFrame(text)).sync(),
                code -> context.writeAndFlush(new CloseWebSocketFrame(code, "")).sync());
        }
    }

    @Override
    protected void channelRead0(ChannelHandlerContext context, WebSocketFrame frame) {
        if (frame instanceof TextWebSocketFrame) {
            Line.show("text", ((TextWebSocketFrame) frame).text());
        } else if (frame instanceof CloseWebSocketFrame) {
            Line.show("closed", ((CloseWebSocketFrame) frame).statusCode());
            context.writeAndFlush(frame.retain()).addListener(done -> context.close());
        }
    }

    @Override
    public void channelInactive(ChannelHandlerContext context) {
        Line.failed("the connection ended without a close frame");
    }

    @Override
    public void exceptionCaught(ChannelHandlerContext context, Throwable error) {
        Line.failed(error);
        context.close();
    }
}
