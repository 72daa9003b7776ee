// A peer in Go's crypto/tls: peer PORT TRUST CERTIFICATE MESSAGE CASE...
//
// A case is speaking:1.2, silent:1.3 and the like: dial 127.0.0.1:PORT as TLS client or TLS server
// (the server from 127.0.0.2, because its window is not that of peers who speak), send the file MESSAGE, read it back, and wait for the end of the stream. For each case, one line:
// "CASE ok" or "CASE" and an error.
package main

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
)

func config(trustFile, nodeFile, version string) (*tls.Config, error) {
	pem, err := os.ReadFile(trustFile)
	if err != nil {
		return nil, err
	}
	trust := x509.NewCertPool()
	if !trust.AppendCertsFromPEM(pem) {
		return nil, fmt.Errorf("no certificate in %s", trustFile)
	}
	node, err := tls.LoadX509KeyPair(nodeFile, nodeFile)
	if err != nil {
		return nil, err
	}
	number := map[string]uint16{"1.2": tls.VersionTLS12, "1.3": tls.VersionTLS13}[version]
	return &tls.Config{
		Certificates: []tls.Certificate{node},
		RootCAs:      trust,
		ServerName:   "127.0.0.1",
		ClientCAs:    trust,
		ClientAuth:   tls.RequireAndVerifyClientCert,
		MinVersion:   number,
		MaxVersion:   number,
	}, nil
}

func try(port, trustFile, nodeFile string, message []byte, one string) error {
	manner, version, _ := strings.Cut(one, ":")
	config, err := config(trustFile, nodeFile, version)
	if err != nil {
		return err
	}
	dialer := net.Dialer{}
	if manner == "silent" {
		dialer.LocalAddr = &net.TCPAddr{IP: net.ParseIP("127.0.0.2")}
	}
	tcp, err := dialer.Dial("tcp", "127.0.0.1:"+port)
	if err != nil {
		return err
	}
	defer tcp.Close()
	connection := tls.Client(tcp, config)
	if manner == "silent" {
		connection = tls.Server(tcp, config)
	}
	if err := connection.Handshake(); err != nil {
		return err
	}
	sent := make(chan error, 1)
	go func() {
		_, err := connection.Write(message)
		sent <- err
	}()
	// crypto/tls takes a bare FIN between two records for a close_notify; Peer.java does not.
	echo, err := io.ReadAll(connection)
	if err != nil {
		return err
	}
	if err := <-sent; err != nil {
		return err
	}
	if !bytes.Equal(echo, message) {
		return fmt.Errorf("%d bytes came back, and not as they were", len(echo))
	}
	return nil
}

func main() {
	message, err := os.ReadFile(os.Args[4])
	if err != nil {
		panic(err)
	}
	for _, one := range os.Args[5:] {
		if err := try(os.Args[1], os.Args[2], os.Args[3], message, one); err != nil {
			fmt.Println(one, err)
		} else {
			fmt.Println(one, "ok")
		}
	}
}
