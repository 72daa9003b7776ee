// A peer in Java's JSSE: java Peer.java PORT TRUST PKCS12 MESSAGE CASE... (as peer.go, where it is
// explained; but Java can't read keys in PEM, so its certificate is in a PKCS #12 file, password "peer")

import java.io.FileInputStream;
import java.net.Socket;
import java.nio.file.Files;
import java.nio.file.Path;
import java.security.KeyStore;
import java.security.cert.CertificateFactory;
import java.util.Arrays;
import java.util.concurrent.CompletableFuture;
import javax.net.ssl.KeyManagerFactory;
import javax.net.ssl.SSLContext;
import javax.net.ssl.SSLSocket;
import javax.net.ssl.TrustManagerFactory;

public class Peer {
    private static final String HOST = "127.0.0.1";
    private static final char[] PASSWORD = "peer".toCharArray();

    private static SSLContext context(String trustFile, String nodeFile) throws Exception {
        var trust = KeyStore.getInstance(KeyStore.getDefaultType());
        trust.load(null);
        try (var pem = new FileInputStream(trustFile)) {
            var authority = CertificateFactory.getInstance("X.509").generateCertificate(pem);
            trust.setCertificateEntry("trust", authority);
        }
        var trusted = TrustManagerFactory.getInstance(TrustManagerFactory.getDefaultAlgorithm());
        trusted.init(trust);
        var keys = KeyManagerFactory.getInstance(KeyManagerFactory.getDefaultAlgorithm());
        keys.init(KeyStore.getInstance(new java.io.File(nodeFile), PASSWORD), PASSWORD);
        var context = SSLContext.getInstance("TLS");
        context.init(keys.getKeyManagers(), trusted.getTrustManagers(), null);
        return context;
    }

    private static void check(SSLContext context, int port, byte[] message, String which) throws Exception {
        var parts = which.split(":");
        // A silent one dials from another address: its window is not that of peers who speak.
        var from = java.net.InetAddress.getByName(parts[0].equals("silent") ? "127.0.0.2" : HOST);
        try (var tcp = new Socket(java.net.InetAddress.getByName(HOST), port, from, 0);
                var tls = (SSLSocket) context.getSocketFactory().createSocket(tcp, HOST, port, true)) {
            tls.setEnabledProtocols(new String[] {"TLSv" + parts[1]});
            tls.setUseClientMode(parts[0].equals("speaking"));
            tls.setNeedClientAuth(true); // of no meaning to a client
            tls.startHandshake();
            var sending = CompletableFuture.runAsync(() -> {
                try {
                    tls.getOutputStream().write(message);
                } catch (java.io.IOException exception) {
                    throw new java.io.UncheckedIOException(exception);
                }
            });
            // Ends well at a close_notify alone, because of the property that main() sets.
            var echo = tls.getInputStream().readAllBytes();
            sending.join();
            if (!Arrays.equals(echo, message)) {
                throw new Exception(echo.length + " bytes came back, and not as they were");
            }
        }
    }

    public static void main(String[] arguments) throws Exception {
        System.setProperty("com.sun.net.ssl.requireCloseNotify", "true");
        var message = Files.readAllBytes(Path.of(arguments[3]));
        var context = context(arguments[1], arguments[2]);
        for (var which : Arrays.copyOfRange(arguments, 4, arguments.length)) {
            try {
                check(context, Integer.parseInt(arguments[0]), message, which);
                System.out.println(which + " ok");
            } catch (Exception exception) {
                System.out.println(which + " " + exception);
            }
        }
    }
}
