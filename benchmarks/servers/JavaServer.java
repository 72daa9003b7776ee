import java.io.*;
import java.net.*;
import java.nio.ByteBuffer;
import java.security.KeyStore;
import java.util.concurrent.*;
import javax.net.ssl.*;

/** The server in Java: SSLServerSocket, a thread for each connection. Arguments: key store, handler. */
public class JavaServer {
    public static void main(String[] arguments) throws Exception {
        char[] password = "benchmark".toCharArray();
        KeyStore store = KeyStore.getInstance("PKCS12");
        try (InputStream in = new FileInputStream(arguments[0])) {
            store.load(in, password);
        }
        KeyStore trust = KeyStore.getInstance("PKCS12");
        trust.load(null, null);
        String alias = store.aliases().nextElement();
        var chain = store.getCertificateChain(alias);
        trust.setCertificateEntry("ca", chain[chain.length - 1]);
        KeyManagerFactory keys = KeyManagerFactory.getInstance("PKIX");
        keys.init(store, password);
        TrustManagerFactory trusted = TrustManagerFactory.getInstance("PKIX");
        trusted.init(trust);
        SSLContext context = SSLContext.getInstance("TLS");
        context.init(keys.getKeyManagers(), trusted.getTrustManagers(), null);
        SSLServerSocket listener = (SSLServerSocket) context.getServerSocketFactory()
            .createServerSocket(0, 4096, InetAddress.getByName("127.0.0.1"));
        listener.setNeedClientAuth(true);
        System.out.println(listener.getLocalPort());
        System.out.flush();
        ExecutorService workers = Executors.newCachedThreadPool();
        while (true) {
            Socket connection = listener.accept();
            connection.setTcpNoDelay(true);
            workers.execute(() -> serve(connection, arguments[1]));
        }
    }

    private static void serve(Socket connection, String handler) {
        try (connection) {
            InputStream in = connection.getInputStream();
            OutputStream out = connection.getOutputStream();
            byte[] buffer = new byte[64 * 1024];
            if (handler.equals("source")) {
                long left = ByteBuffer.wrap(in.readNBytes(8)).getLong();
                while (left > 0) {
                    int size = (int) Math.min(left, buffer.length);
                    out.write(buffer, 0, size);
                    left -= size;
                }
            }
            for (int size; (size = in.read(buffer)) >= 0;) {
                if (handler.equals("echo")) {
                    out.write(buffer, 0, size);
                }
            }
        } catch (IOException e) {
            // The peer's affair.
        }
    }
}
